"""A picture of the first clips of an evaluation: frames and audio of the targets and of what was generated."""

import textwrap
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from con360av_jax.errors import MediaError, MetricError
from con360av_jax.evaluate.examples import clip_mel, mel_pictures
from con360av_jax.evaluate.results import ClipScores, read_results
from con360av_jax.media.files import probe, read_frames
from con360av_jax.runtime.files import replacing

FRAMES = 4
"""Evenly spaced frames of a clip that are shown."""
ACROSS = 2
"""Clips beside each other."""
SIDES = ("target", "generated")
_WIDTH, _HEIGHT = 6.4, 2.9  # of a clip, inches
_LINE = 78  # characters of a line of a caption
_RESOLUTION = 110  # dots per inch


def write_picture(folder: Path, out: Path, first: int) -> Path:
    """Writes a picture of the first clips of the evaluation in `folder`.

    Raises MetricError if the evaluation or a clip is missing, MediaError if a clip cannot be read or `out` not written.
    """
    clips = read_results(folder).clips[:first]
    rows = -(-len(clips) // ACROSS)
    figure = Figure(figsize=(_WIDTH * min(ACROSS, len(clips)), _HEIGHT * rows), layout="constrained", dpi=_RESOLUTION)
    parts = figure.subfigures(rows, min(ACROSS, len(clips)), squeeze=False)
    for part, clip in zip(parts.ravel(), clips, strict=False):
        lines = textwrap.wrap(clip.caption, _LINE)
        part.suptitle("\n".join(lines), fontsize=8.5)
        _draw(part.subplots(len(SIDES), FRAMES + 1, width_ratios=[*[1] * FRAMES, 1.6]), clip, folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, MediaError) as aside:
        figure.savefig(aside, format=out.suffix.removeprefix("."), metadata={} if out.suffix == ".png" else None)
    return out


def _draw(axes: np.ndarray, clip: ClipScores, folder: Path) -> None:
    """Frames and mel spectrogram of the target in the first row, of the generated clip in the second."""
    paths = {"target": folder / clip.target, "generated": folder / clip.generated}
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
        raise MetricError(f"no such clip: {', '.join(missing)}; run the evaluation's command again")
    mels = mel_pictures({side: clip_mel(path) for side, path in paths.items()})
    for row, side in zip(axes, SIDES, strict=True):
        for axis, frame in zip(row, _frames(paths[side]), strict=False):
            _show(axis, frame)
        _show(row[-1], mels[side], aspect="auto")
        row[0].set_ylabel(side, fontsize=9)


def _frames(path: Path) -> UInt8[np.ndarray, "frame height width 3"]:
    rate = probe(path).frames_per_second
    if not rate:
        raise MediaError(f"{path}: has no pictures")
    frames = read_frames(path, rate)
    return frames[np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]


def _show(axis: Axes, picture: UInt8[np.ndarray, "height width 3"], aspect: str = "equal") -> None:
    axis.imshow(picture, aspect=aspect, interpolation="bicubic")  # pyright: ignore[reportArgumentType]
    axis.set_xticks([])
    axis.set_yticks([])
    for edge in axis.spines.values():
        edge.set_visible(False)
