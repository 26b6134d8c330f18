"""con360av sample: clips of a scene from chosen viewpoints, each with its control arrays and a card of settings."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import tyro

from con360av_jax.config.settings import Dtype, MeshConfig, Solver
from con360av_jax.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    import numpy as np

    from con360av_jax.config.settings import SamplerConfig
    from con360av_jax.model import Con360AV, ViewpointLike
    from con360av_jax.sphere.viewpoint import Viewpoint


OTHER_VIDEOS = (".avi", ".m4v", ".mkv", ".webm")


@dataclass(frozen=True)
class Scene:
    """A scene as named by --maps."""

    saliency: "np.ndarray | None" = None
    """Saliency maps (frame height width 1), or None without --maps."""
    caption: str = ""
    """Caption of the record, "" for a file."""
    viewpoint: "np.ndarray | None" = None
    """Viewpoint track of the record (frame 4), rad."""
    key: str = ""
    """Key of the record, "" for a file."""
    source: str = ""
    """Value of --maps."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Generate clips of a scene: one for each viewpoint and trajectory, or one for each of several scenes.

    Each clip gets its control arrays (.npz: saliency, basd, viewpoint) and a card of its inputs and settings (.json).
    Without --maps, --viewpoint and --trajectory the clip is generated without control.
    """

    checkpoint: Path
    """Training run (its newest checkpoint), RUN/checkpoints/STEP or RUN/checkpoints/best, a base, an exported model, or
    the name of a packaged model."""
    out: Path
    """File NAME.mp4 or NAME.mov for one clip, or folder that receives viewpoint_1.mp4, viewpoint_2.mp4, ... All clips
    of a command are one batch. In one of another size, arrays are the same within float32 rounding; files may differ
    more, for encoders round to whole pixel values and bits."""
    maps: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Saliency maps: FILE.npz with an array "saliency", or DATASET#KEY for those of a record. Several give one clip
    each, from the viewpoint of their record."""
    viewpoint: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Viewpoint in degrees: yaw=30,pitch=0,fov=90 (yaw to the right, pitch up). Several give one clip each. Left out:
    the viewpoint of the record in --maps."""
    trajectory: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Moving viewpoint: CSV file with columns time,yaw,pitch,fov (s, degrees). Several give one clip each."""
    caption: str = ""
    """Description of the whole scene. Left out: the caption of the record in --maps."""
    negative_caption: str = ""
    """Description of what the clip should not contain."""
    seed: int = 0
    """Seed of the noise, which all viewpoints share."""
    steps: int | None = None
    """Sampling steps. Left out: the config's sampler.steps."""
    solver: Solver | None = None
    """Solver: ddim, dpmpp_2m or unipc; the latter two need fewer steps. Left out: the config's sampler.solver."""
    guidance_least: float | None = None
    """Noise level sqrt((1 - alpha_bar) / alpha_bar) below which nothing is guided. Left out: the config's."""
    guidance_most: float | None = None
    """Noise level above which nothing is guided. Left out: the config's."""
    map_guidance: float | None = None
    """Guidance scale of the maps. Left out: the config's sampler.map_guidance."""
    saliency_guidance: float | None = None
    """Guidance scale of saliency; --map-guidance is then that of BASD. Left out: the config's, or that of the maps."""
    raw_weights: bool = False
    """Use the trained weights instead of their moving average."""
    dtype: Dtype | None = None
    """Data type that U-Nets, connectors and VAEs compute in. Left out: float32 on CPUs, bfloat16 on GPUs and TPUs."""
    mesh: MeshConfig = MeshConfig()
    """Devices to sample on. Clips are the same on any mesh, within float32 rounding."""

    def execute(self) -> None:
        """Generates all clips, then writes them."""
        from con360av_jax.sphere.viewpoint import Viewpoint

        constant = [Viewpoint.parse(text) for text in self.viewpoint]
        scenes = self._scenes()
        paths = self._paths(len(scenes))

        from con360av_jax.model import load, sampler_settings
        from con360av_jax.runtime.compile_cache import enable_compile_cache

        enable_compile_cache()
        model = load(self.checkpoint, ema=not self.raw_weights, mesh=self.mesh, dtype=self.dtype)
        views = self._views(constant, scenes, model)
        settings = sampler_settings(
            model.config.sampler, self.steps, None, self.map_guidance, None, self.saliency_guidance
        ).given(solver=self.solver, guidance_least=self.guidance_least, guidance_most=self.guidance_most)
        clips = model.generate_batch(
            [scene.caption for scene in scenes],
            views or None,
            [scene.saliency for scene in scenes] if views else None,
            [self.seed] * len(paths),
            self.negative_caption,
            settings,
        )
        said = [*self.viewpoint, *map(str, self.trajectory)] or ["of the maps" if views else "none"] * len(scenes)
        for path, clip, scene, viewpoint in zip(paths, clips, scenes, said, strict=True):
            clip.save(path)
            if views:
                clip.save_control(path.with_suffix(".npz"))
            self._write_card(path.with_suffix(".json"), model, settings, scene, viewpoint)

    def _scenes(self) -> list[Scene]:
        """The scene of each clip: one for each --maps, or the only one for every viewpoint and trajectory."""
        asked = len(self.viewpoint) + len(self.trajectory)
        if asked and len(self.maps) > 1:
            raise ConfigError("several --maps give one clip each, from their own viewpoints: give no other viewpoints")
        scenes = [read_scene(maps) for maps in self.maps] or [Scene()]
        for scene in scenes:
            if not asked and scene.saliency is not None and scene.viewpoint is None:
                raise ConfigError(f"--maps {scene.source} names no viewpoint: add --viewpoint or --trajectory")
        scenes = [replace(scene, caption=self.caption or scene.caption) for scene in scenes]
        if not all(scene.caption for scene in scenes):
            raise ConfigError("no caption: give --caption, or --maps DATASET#KEY to use that record's")
        return scenes * asked if asked else scenes

    def _paths(self, count: int) -> list[Path]:
        """The files to write, one for each clip."""
        from con360av_jax.media.files import CLIP_SUFFIXES

        if self.out.suffix.lower() not in CLIP_SUFFIXES:
            if self.out.is_file() or self.out.suffix.lower() in OTHER_VIDEOS:
                raise ConfigError(f"--out {self.out} is a file: give a folder or a name that ends in .mp4 or .mov")
            return [self.out / f"viewpoint_{number}.mp4" for number in range(1, count + 1)]
        if count > 1:
            raise ConfigError(f"--out {self.out} is one file, but there are {count} viewpoints: give a folder")
        return [self.out]

    def _views(self, constant: "list[Viewpoint]", scenes: list[Scene], model: "Con360AV") -> "list[ViewpointLike]":
        """Viewpoint of each clip: those given as options, or else the scenes' own; empty without control."""
        from con360av_jax.sphere.viewpoint import read_trajectory

        clip = model.config.clip
        moving = [read_trajectory(path, clip.frames, clip.frames_per_second) for path in self.trajectory]
        own: list[ViewpointLike] = [scene.viewpoint for scene in scenes if scene.viewpoint is not None]
        return [*constant, *moving] or own

    def _write_card(
        self, path: Path, model: "Con360AV", settings: "SamplerConfig", scene: Scene, viewpoint: str
    ) -> None:
        from con360av_jax.sample import write_card

        write_card(
            path,
            model.config,
            settings,
            caption=scene.caption,
            negative_caption=self.negative_caption,
            viewpoint=viewpoint,
            seed=self.seed,
            maps=scene.source,
            maps_key=scene.key,
            checkpoint=str(self.checkpoint),
            trained_steps=model.step,
            weights="trained" if self.raw_weights else "moving average",
            dtype=model.dtype,
        )


def read_scene(maps: str) -> Scene:
    """The scene that --maps names: "", FILE.npz or DATASET#KEY.

    Raises:
        DatasetError: the file, its array, the dataset or the record is missing or corrupt.
    """
    if not maps:
        return Scene()
    if "#" in maps and not Path(maps).is_file():
        from con360av_jax.data.source import read_record

        record = read_record(maps)
        return Scene(record.arrays["saliency"], record.caption, record.arrays["viewpoint"], record.key, maps)

    import numpy as np

    if not Path(maps).is_file():
        raise DatasetError(f"maps {maps} do not exist: give FILE.npz or DATASET#KEY")
    try:
        with np.load(maps) as arrays:
            return Scene(arrays["saliency"], viewpoint=arrays.get("viewpoint"), source=maps)
    except (OSError, ValueError, TypeError, KeyError, BadZipFile) as error:
        raise DatasetError(f'{maps} is no .npz file with an array "saliency": {error}') from error
