"""Networks of a few numbers in place of large ones, and media files, for tests of the extraction around them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from con360av_jax.evaluate.features import FeatureCard
from con360av_jax.media.files import write_clip
from preprocess.features.material import Clip
from preprocess.features.networks import Found, Network
from tests.support.audio_files import write_wav

RATE = 16_000


def heard(clip: Clip) -> Found:
    """Two numbers of each second."""
    seconds = clip.audio[: len(clip.audio) // clip.sample_rate * clip.sample_rate].reshape(-1, clip.sample_rate)
    return {"sound": np.stack([seconds.std(axis=1), seconds.max(axis=1)], axis=1)}


def looked_at(clip: Clip) -> Found:
    """A map of a sixteenth of the size, and the mean of the first eight pictures, where there are as many."""
    maps = clip.video.mean(axis=3, dtype=np.float32)[:, ::16, ::16]
    if len(clip.video) < 8:
        return {"saliency": maps, "video_8": f"has {len(clip.video)} frames, the protocol takes 8"}
    return {"saliency": maps, "video_8": clip.video[:8].mean(axis=(1, 2), dtype=np.float32).reshape(1, -1)}


def networks(
    seen: Callable[[str], object] = lambda name: None, most: int = 0, frames_per_second: float = 8.0, **settings: object
) -> tuple[Network, Network]:
    """One network for pictures, of two parts, and one for sound; `seen` is told each clip that the first looks at."""

    def rows(clip: Clip) -> Found:
        seen(clip.name)
        return looked_at(clip)

    saliency = FeatureCard(
        kind="saliency", model="small", weights_sha256="ab", settings=settings, packages={"numpy": "2"}
    )
    video, sound = replace(saliency, kind="video"), replace(saliency, kind="sound")
    return (
        Network(name="small", cards={"saliency": saliency, "video_8": video}, reads="video", rows=rows,
                frames_per_second=frames_per_second, most=most),
        Network(name="small", cards={"sound": sound}, reads="audio", rows=heard),
    )  # fmt: skip


def pictures(seed: int, frames: int = 16, height: int = 32, width: int = 32) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(30, 256, (frames, height // 8, width // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)


def sound(seed: int, seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * rate)).astype(np.float32)


def write_clips(folder: Path, count: int, first: int = 0) -> Path:
    """Clips of two seconds with random pictures and sound."""
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        write_clip(folder / f"clip{number}.mp4", pictures(number), 8.0, sound(number), RATE)
    return folder


def write_flawed(folder: Path) -> Path:
    """One file for each thing that is wrong with a clip, called after it."""
    folder.mkdir(exist_ok=True)
    good, noise = pictures(0), sound(0)
    write_clip(folder / "silent.mp4", good, 8.0, np.zeros_like(noise), RATE)
    write_clip(folder / "black.mp4", np.zeros_like(good), 8.0, noise, RATE)
    write_clip(folder / "no_sound.mp4", good, 8.0, None, RATE)
    write_clip(folder / "short.mp4", good[:4], 8.0, sound(0, 0.5), RATE)
    write_clip(folder / "other_rate.mp4", good, 25.0, noise, RATE)
    write_clip(folder / "other_size.mp4", pictures(0, width=64), 8.0, noise, RATE)
    write_wav(folder / "only_sound.wav", noise, RATE)
    write_wav(folder / "twice.wav", noise, RATE)
    write_clip(folder / "twice.mp4", good, 8.0, noise, RATE)
    (folder / "no_media.mp4").write_text("hello")
    (folder / "cut_off.mp4").write_bytes((folder / "twice.mp4").read_bytes()[:9000])
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    return folder
