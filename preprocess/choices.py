"""Values of options with a fixed set of them, apart from the modules that use them: --help imports none of those."""

from typing import Literal

CaptionName = Literal["file", "template", "blip2+llama"]
SaliencyName = Literal["contrast", "file", "salvit360"]
SaliencyDevice = Literal["cpu", "cuda"]
SplitName = Literal["all", "train", "validation", "test"]
Stereo = Literal["auto", "mono", "top-bottom", "side-by-side"]
