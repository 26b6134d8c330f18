"""One panorama per segment as a small JPEG in the dataset's folder, for reports and for looking at the data."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import cv2

from preprocess.segment import Segment

PREVIEW_WIDTH = 1024
QUALITY = 90


@contextmanager
def preview_folder(dataset: Path) -> Generator[Path]:
    """The name of a folder to write previews to, which becomes `<dataset>/previews` if the block ends without error."""
    partial = dataset.with_name(f"{dataset.name}.previews.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        os.replace(partial, dataset / "previews")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_preview(folder: Path, segment: Segment) -> None:
    """Writes `<clip>_<segment>.jpg`: the panorama in the middle of the segment."""
    frame = cv2.cvtColor(segment.frames[len(segment.frames) // 2], cv2.COLOR_RGB2BGR)
    kind = cv2.INTER_AREA if frame.shape[1] > PREVIEW_WIDTH else cv2.INTER_CUBIC
    frame = cv2.resize(frame, (PREVIEW_WIDTH, PREVIEW_WIDTH // 2), interpolation=kind)
    _, encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{segment.name}.jpg").write_bytes(encoded.tobytes())
