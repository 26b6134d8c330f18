"""Procedural 360° clips: video, ambisonic audio, caption and ground truth of a scene, in memory or as files."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int16, UInt8

from con360av_jax.errors import DatasetError
from con360av_jax.media.files import write_clip
from con360av_jax.runtime.files import remove_leftovers, replacing
from con360av_jax.runtime.processes import in_processes
from con360av_jax.scenes.panorama import paint_objects, panorama_grid, render_scene_background
from con360av_jax.scenes.scene import Scene, make_scene
from con360av_jax.scenes.timbres import object_sound, scene_sound
from con360av_jax.scenes.truth import VERSIONS, Truth, scene_truth
from con360av_jax.scenes.version_2 import SPLIT_NUMBERS, SceneSplit, make_scene_2
from con360av_jax.scenes.views import draw_viewpoints, seen_objects, view_caption

CAPTIONS, SETTINGS, VIEWPOINTS = "captions.jsonl", "scenes.json", "viewpoints.csv"


@dataclass(frozen=True)
class SyntheticClip:
    """One rendered scene."""

    video: UInt8[np.ndarray, "frame height width 3"]
    """Equirectangular RGB; frame k shows the instant k / frames per second."""
    sound: Int16[np.ndarray, "sample 4"]
    """First-order ambisonics: ACN order W, Y, Z, X, SN3D normalisation, 16 bit."""
    caption: str
    truth: Truth


def numbered_scene(seed: int, index: int, seconds: float, version: int = 1, split: SceneSplit = "train") -> Scene:
    """Scene `index` of the set `seed` of a version; `split` is that of version 2.

    Raises DatasetError for an unknown version, and as `make_scene_2` does.
    """
    if version not in VERSIONS:
        raise DatasetError(f"scenes have no version {version}: give one of {', '.join(map(str, VERSIONS))}")
    return make_scene(seed, index, seconds) if version == 1 else make_scene_2(seed, index, seconds, split)


def captions_corpus(count: int, seed: int, version: int = 1) -> list[str]:
    """Captions of the first scenes of a set, without rendering: `count` in all.

    In version 2, every second one is a view caption.
    """
    if version == 1:
        return [make_scene(seed, index).caption for index in range(count)]
    return [text for index in range((count + 1) // 2) for text in _both_captions(seed, index)][:count]


def _both_captions(seed: int, index: int) -> tuple[str, str]:
    scene, generator = make_scene_2(seed, index), np.random.default_rng(np.random.SeedSequence([6, seed, index]))
    (viewpoint,) = draw_viewpoints(scene, scene.seconds / 2, generator)
    seen = seen_objects(scene, scene.seconds / 2, viewpoint)
    return scene.caption, view_caption(scene, seen, viewpoint, generator, moves=True)


def render_clip(
    seed: int,
    seconds: float = 10.0,
    height: int = 480,
    width: int = 960,
    frames_per_second: float = 8.0,
    sample_rate: int = 16_000,
    index: int = 0,
) -> SyntheticClip:
    """Renders scene `index` of the set `seed` of version 1; bit-identical for equal arguments."""
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


@dataclass(frozen=True, kw_only=True)
class _Rendering:
    """Settings of written scenes that determine their content; what scenes.json holds, with the number of clips."""

    seed: int
    height: int
    width: int
    seconds: float
    frames_per_second: float
    sample_rate: int
    version: int
    split: SceneSplit
    viewpoints: int

    def recorded(self, clips: int) -> dict[str, int | float | str]:
        """Content of scenes.json."""
        settings = {"version": self.version, "clips": clips, **asdict(self)}
        # Files of version 1 are as they were before there were others.
        return {name: value for name, value in settings.items() if self.version > 1 or name not in _SINCE_2}


_SINCE_2 = ("split", "viewpoints")


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
    version: int = 1,
    split: SceneSplit = "train",
    viewpoints: int = 2,
) -> None:
    """Writes scene_000000.mp4 (H.264, 4-channel FLAC) and .json (ground truth) per scene, and captions.jsonl, to `out`.

    Scenes of version 2 also get viewpoints.csv, trajectories for preprocessing. The folder appears when it is
    complete. A folder that already holds the same scenes stays unchanged.

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
        version: version of the scenes.
        split: split of scenes of version 2.
        viewpoints: viewpoints per scene of version 2.

    Raises:
        DatasetError: the arguments are invalid, or `out` holds something else or cannot be created.
    """
    if clips < 1 or workers < 1 or seconds <= 0 or height < 8 or width != 2 * height or seed < 0 or viewpoints < 1:
        raise DatasetError(
            f"clips={clips}, workers={workers}, seconds={seconds}, seed={seed}, viewpoints={viewpoints} and size "
            f"{height}x{width} make no scenes; all must be positive and the width twice the height"
        )
    rendering = _Rendering(
        **{"seed": seed, "height": height, "width": width, "seconds": seconds, "frames_per_second": frames_per_second},
        **{"sample_rate": sample_rate, "version": version, "split": split, "viewpoints": viewpoints},
    )
    numbered_scene(seed, 0, seconds, version, split)  # raises before anything is written
    out, settings = Path(out), rendering.recorded(clips)
    if not _already_written(out, settings):
        remove_leftovers(out.parent, out.name)
        with replacing(out, DatasetError) as folder:
            folder.mkdir()
            _write_scenes(folder, rendering, clips, workers, progress)
            (folder / SETTINGS).write_text(json.dumps(settings))


def _write_scenes(
    folder: Path, rendering: _Rendering, clips: int, workers: int, progress: Callable[[int, int], None] | None
) -> None:
    """Writes all clips with truth, captions and viewpoints."""
    lines, places = dict[int, str](), dict[int, list[str]]()
    for index, caption, places[index] in in_processes(partial(_write_scene, folder, rendering), range(clips), workers):
        lines[index] = json.dumps({"file": f"scene_{index:06d}.mp4", "caption": caption})
        if progress:
            progress(len(lines), clips)
    (folder / CAPTIONS).write_text("".join(f"{lines[index]}\n" for index in range(clips)))
    if rendering.version > 1:
        rows = [row for index in range(clips) for row in places[index]]
        (folder / VIEWPOINTS).write_text("\n".join(["clip,viewpoint,time,yaw,pitch,fov", *rows, ""]))


def _already_written(out: Path, settings: dict[str, int | float | str]) -> bool:
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


def _write_scene(folder: Path, rendering: _Rendering, index: int) -> tuple[int, str, list[str]]:
    """Renders and writes one clip with its truth; returns its number, caption and lines of viewpoints."""
    scene = numbered_scene(rendering.seed, index, rendering.seconds, rendering.version, rendering.split)
    rate, size = rendering.frames_per_second, (rendering.height, rendering.width)
    clip = render_scene(scene, *size, rate, rendering.sample_rate)
    path = folder / f"scene_{index:06d}.mp4"
    write_clip(path, clip.video, rate, clip.sound, rendering.sample_rate, lossless_audio=True)
    path.with_suffix(".json").write_text(json.dumps(clip.truth))
    return index, clip.caption, _viewpoint_rows(scene, path.stem, rendering, index) if scene.version > 1 else []


def _viewpoint_rows(scene: Scene, name: str, rendering: _Rendering, index: int) -> list[str]:
    """Lines of viewpoints.csv for one scene: viewpoints at its middle, which stand still."""
    seed = np.random.SeedSequence([5, SPLIT_NUMBERS[rendering.split], rendering.seed, index])
    drawn = draw_viewpoints(scene, scene.seconds / 2, np.random.default_rng(seed), rendering.viewpoints)
    angles = [np.degrees(viewpoint[:3].astype(float)) for viewpoint in drawn]
    return [f"{name},{number},0,{','.join(f'{angle:.3f}' for angle in row)}" for number, row in enumerate(angles)]
