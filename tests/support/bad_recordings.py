"""A recording for each fault that a recording can have, and the line that it must leave in the ledger."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from con360av_jax.media.files import write_clip
from tests.support.audio_files import write_wav
from tests.support.panorama_files import EVENLY, RATE, hiss, panorama, write_panorama

MEND = "give a video that a player can open"
AUDIO = "give a 360° video with audio"


class Kind(NamedTuple):
    """One fault."""

    make: Callable[[Path], object]
    reason: str
    """The ledger's reason after the file's name."""
    ending: str = ".mkv"
    segment: int | None = None
    """The segment that has the fault, or None if the whole recording is rejected."""


def changed(where: slice, value: float) -> np.ndarray:
    sound = hiss()
    sound[where] = value
    return sound


def noise_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def cut_off(path: Path) -> None:
    write_clip(path, np.stack([panorama(number) for number in range(16)]), 8, hiss(), RATE, lossless_audio=True)
    path.write_bytes(path.read_bytes()[:-20_000])


def cut_off_before_its_header(path: Path) -> None:
    """QuickTime's header comes last."""
    write_panorama(path, sound=hiss())
    path.write_bytes(path.read_bytes()[:-3000])


def unknown_sound(path: Path) -> None:
    write_panorama(path, sound=hiss())
    path.write_bytes(path.read_bytes().replace(b"fl32", b"zzzz"))


def moved(path: Path) -> None:
    path.symlink_to(path.with_name("moved away"))


KINDS = {
    "not a video": Kind(noise_bytes, f"is not a media file, or is corrupt; {MEND}", ".mp4"),
    "truncated": Kind(cut_off, "is corrupt or cut off; give a complete file", ".mp4"),
    "truncated before its header": Kind(
        cut_off_before_its_header, f"is not a media file, or is corrupt; {MEND}", ".mov"
    ),
    "no pictures": Kind(
        lambda path: write_panorama(path, times=(), sound=hiss()),
        "its video stream is empty; give a complete file",
    ),
    "no video": Kind(lambda path: write_wav(path, hiss(), RATE), f"has no video stream; {AUDIO}", ".wav"),
    "no sound": Kind(write_panorama, f"has no audio stream; {AUDIO}"),
    "unknown sound": Kind(unknown_sound, f"its audio is in an unknown codec; {MEND}", ".mov"),
    "short": Kind(
        lambda path: write_panorama(path, times=EVENLY[:4], sound=hiss(0.5)),
        "has 0.50 s of video and audio, shorter than a segment; give at least 1 s",
    ),
    "silent": Kind(
        lambda path: write_panorama(path, sound=changed(slice(RATE, None), 0)),
        "the audio from 1 s on is silent (digital silence, the limit is -80 dBFS); give a video with audible sound",
        segment=1,
    ),
    "not a number": Kind(
        lambda path: write_panorama(path, sound=changed(slice(RATE + 5, RATE + 8), np.nan)),
        "3 samples of the audio from 1 s on are NaN or infinite; decode or record it again",
        segment=1,
    ),
    "clipped": Kind(
        lambda path: write_panorama(path, sound=changed(slice(0, RATE, 5), 1)),
        "the audio from 0 s on is clipped: 20.0% of it is at full scale, more than 1.0%; "
        "give a recording at a lower level",
        segment=0,
    ),
    "channels": Kind(
        lambda path: write_panorama(path, sound=hiss(channels=3), layout="3.0"),
        "has 3 audio channels; give mono, stereo or ambisonics (4, 9 or 16 channels)",
    ),
    "square": Kind(
        lambda path: write_panorama(path, sound=hiss(), height=48),
        "is 64x48, which is no 2:1 panorama (--stereo auto); give an equirectangular video, 2:1 or stretched to 16:9",
    ),
    "gap": Kind(
        lambda path: write_panorama(path, times=(*EVENLY[:8], 1.0, 1.125, 1.75, 1.875), sound=hiss()),
        "has no new frame from 1.12 s to 1.75 s, a gap of more than 0.5 s; give a video without missing frames",
        segment=1,
    ),
    "moved": Kind(moved, "is a link to a file that is not there; correct the link", ".mp4"),
    "folder": Kind(Path.mkdir, "is not a file; give a video file such as an mp4", ".mp4"),
    "deleted": Kind(lambda path: None, "no such file; check the path", ".mp4"),
}


def made(kind: str, folder: Path) -> tuple[Path, dict[str, object]]:
    """A file of that kind and the line it must leave."""
    make, reason, ending, segment = KINDS[kind]
    path = folder / f"{kind}{ending}"
    make(path)
    line: dict[str, object] = {"file": str(path), "stage": "standardise", "reason": f"{path}: {reason}"}
    return path, line if segment is None else line | {"stage": "segment", "segment": segment}
