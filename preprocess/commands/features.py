"""python -m preprocess features: what the networks of a protocol make of media files, for `con360av evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from preprocess.features.extraction import Extracted

# Lines of what is rejected that the summary shows.
SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Features:
    """Turn videos and sounds into the features of a named protocol, one folder per part."""

    videos: Annotated[Path, tyro.conf.arg(metavar="FOLDER|FILE")]
    """Media files, found in a folder and those below; a clip is called as its file. One without pictures has sound
    parts only."""
    output: Annotated[Path, tyro.conf.arg(aliases=("--out",), metavar="FEATURES")]
    """Gets a folder for each part. Parts that are there stay if clips and settings are the same."""
    protocol: str
    """paper, styleganv, videogpt, fadtk or small."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH")] = ()
    """Files of the networks, such as fastgaze=fastgaze.vxm yamnet=yamnet.tflite; of clap a folder."""
    parts: tuple[str, ...] = ()
    """Only these, such as saliency, sound, classes, video_16."""
    model: tyro.conf.UseAppendAction[tuple[Literal["fastgaze", "yamnet", "tempsal", "i3d", "clap"], ...]] = ()
    """Only the parts of this network; may be given several times."""
    side: Literal["target", "generated"] | None = None
    """What the clips are, where a protocol takes frames of targets at random."""
    device: str = "cpu"
    """Where PyTorch computes: cpu, cuda, cuda:1 .."""
    batch: int = 4
    """Files read and in memory at once; changes no number."""
    allow_code: bool = False
    """Run the TorchScript program that is given as weights, which is code of others."""

    def execute(self) -> int:
        """Writes the folders.

        Raises a Con360Error if a setting, weights or the output do not fit, or if no clip is usable.
        """
        from rich.console import Console
        from rich.progress import Progress

        from con360av_jax.evaluate.protocols import named_protocol
        from con360av_jax.runtime.host_memory import keep_freed_memory
        from preprocess.features.extraction import extract
        from preprocess.features.material import find_clips
        from preprocess.features.networks import Wanted, wanted_parts
        from preprocess.features.opening import open_networks

        protocol = named_protocol(self.protocol)
        wanted = Wanted(
            protocol=protocol,
            parts=wanted_parts(protocol, self.parts, self.model),
            weights=self._weights(),
            side=self.side,
            device=self._device(),
            allow_code=self.allow_code,
        )
        keep_freed_memory()  # networks ask for the same megabytes picture by picture
        sources, rejected = find_clips(self.videos)
        networks = open_networks(wanted)
        console = Console(stderr=True)
        with Progress(console=console) as bar:
            task = bar.add_task("features", total=len(sources))
            extracted = extract(sources, rejected, networks, self.output, self.batch, lambda source: bar.advance(task))
        _summarise(console, self.output, wanted.parts, extracted)
        return 0

    def _weights(self) -> dict[str, Path]:
        from con360av_jax.errors import ConfigError

        found = {}
        for given in self.weights:
            name, equals, path = given.partition("=")
            if not equals or not path or name in found:
                raise ConfigError(f"--weights {given}: give each network once, as NAME=PATH")
            found[name] = Path(path)
        return found

    def _device(self) -> str:
        import torch

        from con360av_jax.errors import ConfigError, first_line

        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = first_line(error)
            raise ConfigError(f"--device {self.device}: PyTorch cannot use it ({reason}); give cpu or cuda") from error
        return self.device


def _summarise(console: "Console", output: Path, parts: Sequence[str], extracted: "Extracted") -> None:
    """What was rejected, each file and reason once, and what each part holds."""
    from rich.table import Table

    by_line: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        for line in extracted.rejected[part]:
            by_line.setdefault((str(line["file"]), str(line["reason"])), []).append(part)
    if by_line:
        table = Table("file", "parts", "reason", title="left out", title_justify="left")
        for (file, reason), names in list(by_line.items())[:SHOWN]:
            table.add_row(file, " ".join(names), reason)
        console.print(table)
        if len(by_line) > SHOWN:
            console.print(f"and {len(by_line) - SHOWN} more; all of them in rejected.jsonl of each part")
    for part in parts:
        found = extracted.features.get(part)
        if found is None:
            console.print(f"{output / part}: not written, no clip is usable for it", highlight=False, soft_wrap=True)
            continue
        shape = "x".join(map(str, found.values.shape[1:]))
        console.print(
            f"{output / part}: {found.card.clips} clips, {found.card.rows} rows of {shape}, {found.card.model}; "
            f"{len(found.rejected)} left out",
            highlight=False,
            soft_wrap=True,
        )
