"""Previews of segments: one panorama each, as a small JPEG in the dataset folder, for reports and inspection."""

from pathlib import Path

import cv2

from con360av_jax.data.source import preview_name
from con360av_jax.errors import DatasetError
from con360av_jax.runtime.files import replacing
from preprocess.stages.segment import Segment

PREVIEW_WIDTH = 1024
QUALITY = 90


def write_preview(folder: Path, segment: Segment) -> None:
    """Writes the panorama in the middle of the segment, under its `preview_name`."""
    frame = cv2.cvtColor(segment.frames[len(segment.frames) // 2], cv2.COLOR_RGB2BGR)
    kind = cv2.INTER_AREA if frame.shape[1] > PREVIEW_WIDTH else cv2.INTER_CUBIC
    frame = cv2.resize(frame, (PREVIEW_WIDTH, PREVIEW_WIDTH // 2), interpolation=kind)
    _, encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    with replacing(folder / preview_name(segment.window.clip.name, segment.window.index), DatasetError) as aside:
        aside.write_bytes(encoded.tobytes())
