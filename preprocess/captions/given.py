"""The `file` caption backend: captions given in files beside the videos."""

import json
from functools import lru_cache
from pathlib import Path

from con360av_jax.errors import DatasetError
from con360av_jax.runtime.text_files import read_text, split_lines
from preprocess.captions.contract import Tracks
from preprocess.stages.segment import Segment


def file_caption(segment: Segment, tracks: Tracks) -> str:
    """The text in `<video>.txt`, or of the video's line {"file": name, "caption": text} in `captions.jsonl` beside it.

    Raises DatasetError if neither holds a caption for the video.
    """
    path = segment.window.clip.path
    text = path.with_suffix(".txt")
    listing = path.parent / "captions.jsonl"
    if text.is_file():
        caption = read_text(text, DatasetError)
    else:
        captions = _listed(listing) if listing.is_file() else {}
        caption = captions.get(path.name, captions.get(path.stem, ""))
    caption = " ".join(caption.replace("\ufeff", " ").split())
    if not caption:
        raise DatasetError(f"{path}: has no caption; add {text.name}, a line in {listing}, or use --captions template")
    return caption


@lru_cache(maxsize=16)
def _listed(path: Path) -> dict[str, str]:
    captions = {}
    for number, line in enumerate(split_lines(read_text(path, DatasetError)), start=1):
        try:
            entry = json.loads(line)
            captions[str(entry["file"])] = str(entry["caption"])
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(
                f'{path}: line {number} is not {{"file": .., "caption": ..}} ({error!r}); correct or delete it'
            ) from error
    return captions
