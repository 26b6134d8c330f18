"""Procedural 360° clips: video, ambisonic audio, caption and ground truth of a scene, in memory or as files."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Int16, UInt8

from con360av_jax.errors import DatasetError
from con360av_jax.media.files import write_clip
from con360av_jax.runtime.files import remove_leftovers, replacing
from con360av_jax.scenes.panorama import paint_objects, panorama_grid, render_scene_background
from con360av_jax.scenes.scene import Scene, make_scene
from con360av_jax.scenes.timbres import object_sound, scene_sound

TRUTH_VERSION = 1
CAPTIONS, SETTINGS = "captions.jsonl", "scenes.json"
ObjectTruth = TypedDict(
    "ObjectTruth",
    {
        "class": str,
        "onsets_s": list[float],
        "lon_deg": list[float],
        "lat_deg": list[float],
        "angular_radius_deg": list[float],
        "distance_m": list[float],
        "loudness": list[float],
    },
)
"""Ground truth of one object. Per frame: lon_deg, positive to the right of the image centre; lat_deg, positive up;
angular_radius_deg, from centre to edge; loudness, RMS of its sound at the viewer until the next frame."""


class Truth(TypedDict):
    """Ground truth of a clip: its objects and their positions and loudness by frame."""

    version: int
    caption: str
    seconds: float
    place: str
    frame_times_s: list[float]
    objects: list[ObjectTruth]


@dataclass(frozen=True)
class SyntheticClip:
    """One rendered scene."""

    video: UInt8[np.ndarray, "frame height width 3"]
    """Equirectangular RGB; frame k shows the instant k / frames per second."""
    sound: Int16[np.ndarray, "sample 4"]
    """First-order ambisonics: ACN order W, Y, Z, X, SN3D normalisation, 16 bit."""
    caption: str
    truth: Truth


def captions_corpus(count: int, seed: int) -> list[str]:
    """Captions of scenes 0 to count - 1, without rendering."""
    return [make_scene(seed, index).caption for index in range(count)]


def render_clip(
    seed: int,
    seconds: float = 10.0,
    height: int = 480,
    width: int = 960,
    frames_per_second: float = 8.0,
    sample_rate: int = 16_000,
    index: int = 0,
) -> SyntheticClip:
    """Renders scene `index` of the set `seed`; bit-identical for equal arguments."""
    scene = make_scene(seed, index, seconds)
    return render_scene(scene, height, width, frames_per_second, sample_rate)


def render_scene(
    scene: Scene, height: int, width: int, frames_per_second: float = 8.0, sample_rate: int = 16_000
) -> SyntheticClip:
    """Renders video, audio and ground truth of `scene`."""
    background = render_scene_background(scene, height, width)
    times = np.arange(round(scene.seconds * frames_per_second)) / frames_per_second
    video = np.repeat(background[None], len(times), axis=0)
    for picture, time in zip(video, times, strict=True):
        paint_objects(picture, panorama_grid(height, width), scene, float(time))
    sources = [object_sound(item, scene.seconds, sample_rate) for item in scene.objects]
    truth = scene_truth(scene, sources, times, sample_rate)
    return SyntheticClip(video, scene_sound(scene, sources, sample_rate), scene.caption, truth)


def scene_truth(
    scene: Scene, sources: list[Float[np.ndarray, "sample"]], times: Float[np.ndarray, "frame"], sample_rate: int
) -> Truth:
    """Ground truth of all objects at `times`; `sources` contains one `object_sound` per object."""
    bounds = np.append(np.round(times * sample_rate).astype(int), round(scene.seconds * sample_rate))
    objects: list[ObjectTruth] = []
    for item, source in zip(scene.objects, sources, strict=True):
        longitude, latitude = item.motion.angles(times)
        pieces = [source[first:last] for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
        objects.append(
            {
                "class": item.name,
                "onsets_s": _rounded(item.onsets, 5),
                "lon_deg": _rounded(np.degrees(longitude)),
                "lat_deg": _rounded(np.degrees(latitude)),
                "angular_radius_deg": _rounded(np.degrees(item.angular_radius(times, scene.seconds))),
                "distance_m": _rounded(item.motion.distance(times, scene.seconds)),
                "loudness": _rounded(np.array([np.sqrt(np.mean(piece**2)) for piece in pieces]), 5),
            }
        )
    return {
        "version": TRUTH_VERSION,
        "caption": scene.caption,
        "seconds": scene.seconds,
        "place": scene.background.palette,
        "frame_times_s": _rounded(times, 5),
        "objects": objects,
    }


def _rounded(values: Float[np.ndarray, "value"], digits: int = 3) -> list[float]:
    return [round(float(value), digits) for value in values]


def write_scene_clips(
    out: str | Path,
    clips: int,
    seed: int,
    height: int = 480,
    width: int = 960,
    seconds: float = 10.0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    frames_per_second: float = 8.0,
    sample_rate: int = 16_000,
) -> None:
    """Writes scene_000000.mp4 (H.264, 4-channel FLAC) and .json (ground truth) per scene, and captions.jsonl, to `out`.

    The folder appears when it is complete. A folder that already holds the same scenes stays unchanged.

    Args:
        out: a folder that does not exist, is empty, or holds the same scenes.
        clips: number of clips.
        seed: seed of the set, which with a clip's number determines its content.
        height: height of the panorama, pixels.
        width: width of the panorama, pixels; twice the height.
        seconds: duration of each clip, s.
        workers: number of processes; does not change the clips.
        progress: called with (clips done, clips) after each clip.
        frames_per_second: frame rate of the video.
        sample_rate: sample rate of the audio, Hz.

    Raises:
        DatasetError: the arguments are invalid, or `out` holds something else or cannot be created.
    """
    if clips < 1 or workers < 1 or seconds <= 0 or height < 8 or width != 2 * height or seed < 0:
        raise DatasetError(
            f"clips={clips}, workers={workers}, seconds={seconds}, seed={seed} and size {height}x{width} make no "
            "scenes; all must be positive and the width twice the height"
        )
    settings: dict[str, int | float] = {
        **{"version": TRUTH_VERSION, "clips": clips, "seed": seed, "height": height, "width": width},
        **{"seconds": seconds, "frames_per_second": frames_per_second, "sample_rate": sample_rate},
    }
    out = Path(out)
    if _already_written(out, settings):
        return
    remove_leftovers(out.parent, out.name)
    lines = dict[int, str]()
    with replacing(out, DatasetError) as folder:
        folder.mkdir()
        work = partial(_write_scene, folder, seed, (height, width), seconds, frames_per_second, sample_rate)
        for index, caption in _in_processes(work, clips, workers):
            lines[index] = json.dumps({"file": f"scene_{index:06d}.mp4", "caption": caption})
            if progress:
                progress(len(lines), clips)
        (folder / CAPTIONS).write_text("".join(f"{lines[index]}\n" for index in range(clips)))
        (folder / SETTINGS).write_text(json.dumps(settings))


def _already_written(out: Path, settings: dict[str, int | float]) -> bool:
    """Whether `out` holds the scenes of `settings`; raises DatasetError if it holds something else."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise DatasetError(f"{out}: is a file; choose a folder for the scenes")
    if not any(out.iterdir()):
        return False
    recorded = out / SETTINGS
    if recorded.is_file() and recorded.read_text() == json.dumps(settings):
        return True
    raise DatasetError(f"{out}: is not empty and holds something else than these scenes; choose another folder")


def _in_processes(work: Callable[[int], tuple[int, str]], clips: int, workers: int) -> Iterator[tuple[int, str]]:
    """`work(index)` for every clip as results come in, in this process or, with several workers, in new ones."""
    if workers == 1:
        yield from map(work, range(clips))
        return
    with ProcessPoolExecutor(min(workers, clips), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(work, index) for index in range(clips)]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_scene(
    folder: Path,
    seed: int,
    size: tuple[int, int],
    seconds: float,
    frames_per_second: float,
    sample_rate: int,
    index: int,
) -> tuple[int, str]:
    """Renders and writes one clip with its truth; returns its number and caption."""
    clip = render_clip(seed, seconds, *size, frames_per_second, sample_rate, index)
    path = folder / f"scene_{index:06d}.mp4"
    write_clip(path, clip.video, frames_per_second, clip.sound, sample_rate, lossless_audio=True)
    path.with_suffix(".json").write_text(json.dumps(clip.truth))
    return index, clip.caption
