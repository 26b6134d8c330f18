"""The Python interface: one object that holds a config and its parameters, denoises, samples and generates clips."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32

from con360av_jax.base.codecs import Codecs
from con360av_jax.base.exported import require_average
from con360av_jax.base.pretrained import Pretrained, open_pretrained
from con360av_jax.config.settings import Config, Dtype, MeshConfig, PerModality, SamplerConfig, require
from con360av_jax.config.shapes import MODALITIES, maps_shape
from con360av_jax.data.transforms import stack_maps
from con360av_jax.denoiser import DenoiserInputs, Latents, Text, Timesteps
from con360av_jax.diffusion.schedule import noise_predictor
from con360av_jax.errors import ConfigError, GeometryError
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import joint_model
from con360av_jax.runtime.packaged import find_model
from con360av_jax.sample import BatchSampler, Clip, decode, noise_from_seeds
from con360av_jax.sharding import make_mesh, shardings_for
from con360av_jax.sphere.geometry import minmax
from con360av_jax.sphere.viewpoint import Viewpoint
from con360av_jax.train import checkpoint, run_folder
from con360av_jax.train.optimizer import merge, select

ViewpointLike: TypeAlias = Viewpoint | Float[np.ndarray, "frame 4"]
"""A constant viewpoint, or a track (frame 4) of yaw, pitch, horizontal and vertical field of view, rad."""
SaliencyLike: TypeAlias = Float[np.ndarray, "..."]
"""Maps (frame height width 1) or (frame height width), or one map (height width) for all frames."""


class Con360AV:
    """A model ready for use: `config`, `params` (of the joint model, on the mesh), frozen encoders and decoders.

    Dicts are over "audio" and "video"; compiled functions are kept, one per batch shape and setting.
    """

    def __init__(
        self,
        config: Config,
        params: Params,
        pretrained: Pretrained,
        mesh: Mesh,
        step: int = 0,
        dtype: Dtype | None = None,
    ):
        self.config, self.params = config, params
        self.step = step
        """Number of training steps of `params`; 0 for a pretrained folder that is no exported run."""
        self.dtype: Dtype = dtype or default_dtype()
        """Data type that the joint model and the VAEs compute in; text encoders and vocoder compute in float32."""
        self.codecs = Codecs(pretrained, vae_dtype=self.dtype)
        denoise, _ = joint_model(config, self.dtype)
        self._denoise = jax.jit(noise_predictor(denoise, config.schedule))
        self._sample = BatchSampler(config, mesh, self.dtype)

    def denoise(
        self,
        latents: Latents,
        timesteps: Timesteps,
        text: Text,
        *,
        modalities: Sequence[str] = MODALITIES,
        **conditions: Any,
    ) -> Latents:
        """One prediction of the noise in `latents`, of the same shapes, also by a model that predicts the velocity.

        The arguments are the fields of `DenoiserInputs`, which says what each of them means; `conditions` are its
        optional ones: clean_estimates, connector_timesteps, connector_latents, maps, map_mask.

        Raises ConfigError for an unknown modality, TypeError for an unknown condition.
        """
        inputs = DenoiserInputs(
            latents=latents, timesteps=timesteps, text=text, modalities=tuple(modalities), **conditions
        )
        return self._denoise(self.params, inputs)

    def encode_text(self, captions: Sequence[str]) -> Text:
        """Embeddings of captions: audio (batch channel) of CLAP, video (batch token channel) of CLIP."""
        return jax.tree.map(jnp.asarray, self.codecs.encode_text(list(captions)))

    def noise(self, seeds: Sequence[int]) -> Latents:
        """Noise latents; row i depends on seeds[i] alone. Raises ConfigError for a seed outside 32 bits."""
        return noise_from_seeds(self.config, seeds)

    def control(
        self, viewpoint: ViewpointLike, saliency: SaliencyLike | None = None
    ) -> tuple[Float32[np.ndarray, "frame height width 2"], Float32[np.ndarray, "frame 4"]]:
        """Returns the model's maps (saliency, BASD) and the viewpoint's track in rad.

        Saliency is scaled to [0, 1] over the clip as in training. Without it the saliency channel is zero, and the
        viewpoint acts through its distance map alone.

        Raises:
            GeometryError: saliency or track are not finite or do not have the config's shape.
        """
        frames, height, width, _ = maps_shape(self.config)
        track = viewpoint.track(frames) if isinstance(viewpoint, Viewpoint) else np.asarray(viewpoint, np.float32)
        if track.shape != (frames, 4) or not np.isfinite(track).all():
            raise GeometryError(f"a viewpoint track must be finite and of shape {(frames, 4)}, but is {track.shape}")
        if saliency is None:
            maps = np.zeros((frames, height, width, 1), np.float32)
        else:
            maps = np.asarray(saliency, np.float32)
            maps = maps[..., None] if maps.ndim in (2, 3) and maps.shape[-2:] == (height, width) else maps
            if maps.shape not in ((frames, height, width, 1), (height, width, 1)) or not np.isfinite(maps).all():
                raise GeometryError(
                    f"saliency must be finite and of shape {(frames, height, width, 1)} or {(height, width)}, "
                    f"but is {np.shape(saliency)}"
                )
            maps = minmax(np.broadcast_to(maps, (frames, height, width, 1)))
        return stack_maps(maps, track), track

    def sample_latents(
        self,
        noise_latents: Latents,
        text: Text,
        negative_text: Text,
        maps: Float[Array | np.ndarray, "batch frame height width 2"] | None = None,
        steps: int | None = None,
        guidance: Mapping[str, float] | None = None,
        map_guidance: float | Mapping[str, float] | None = None,
        timestep_gamma: float | None = None,
        saliency_guidance: float | Mapping[str, float | None] | None = None,
        map_mask: Bool[np.ndarray, "batch"] | None = None,
    ) -> Latents:
        """Samples clean latents with guidance; arguments that are None come from `config.sampler`.

        Args:
            noise_latents: standard normal, as `noise` gives them.
            text: embeddings of the captions.
            negative_text: embeddings of the negative captions, usually of "".
            maps: (batch frame height width 2) as `control` gives them, stacked; None means no control.
            steps: sampling steps.
            guidance: scale of the text per modality.
            map_guidance: scale of the maps, one number for both or per modality.
            timestep_gamma: gamma of the timestep adjustment t -> T (t/T)^(gamma^+-0.5).
            saliency_guidance: scale of saliency; `map_guidance` is then that of BASD.
            map_mask: rows where it is False are sampled without control; None means that all rows have their maps.

        Raises:
            ConfigError: `steps` does not fit the schedule, or a scale is missing.
        """
        settings = sampler_settings(
            self.config.sampler, steps, guidance, map_guidance, timestep_gamma, saliency_guidance
        )
        return self._sample(self.params, noise_latents, text, negative_text, maps, settings, map_mask)

    def generate(
        self,
        caption: str,
        viewpoint: ViewpointLike | None = None,
        saliency: SaliencyLike | None = None,
        seed: int = 0,
        negative_caption: str = "",
        steps: int | None = None,
        guidance: Mapping[str, float] | None = None,
        map_guidance: float | Mapping[str, float] | None = None,
        timestep_gamma: float | None = None,
        saliency_guidance: float | Mapping[str, float | None] | None = None,
    ) -> Clip:
        """Generates one clip of the scene that `caption` describes, seen from `viewpoint`; see `generate_batch`."""
        settings = sampler_settings(
            self.config.sampler, steps, guidance, map_guidance, timestep_gamma, saliency_guidance
        )
        views = None if viewpoint is None else [viewpoint]
        maps = None if saliency is None else [saliency]
        return self.generate_batch([caption], views, maps, [seed], negative_caption, settings)[0]

    def generate_batch(
        self,
        captions: Sequence[str],
        viewpoints: Sequence[ViewpointLike | None] | None = None,
        saliencies: Sequence[SaliencyLike | None] | None = None,
        seeds: Sequence[int] | None = None,
        negative_caption: str = "",
        settings: SamplerConfig | None = None,
    ) -> list[Clip]:
        """Generates clips as one batch over the mesh, one for each of `captions`.

        Args:
            viewpoints: one per clip; None, for one clip or for all, generates without control (the audio-visual
                baseline).
            saliencies: one per clip, see `control`; a clip with one needs a viewpoint.
            seeds: one per clip, 0 if left out; a clip depends on its own seed only.
            negative_caption: negative caption of all clips.
            settings: steps and guidance; `config.sampler` if left out.

        Raises:
            ConfigError: lists of different lengths, or a seed outside 32 bits.
            GeometryError: saliency without viewpoints, or of another shape.
        """
        count = len(captions)
        seeds = [0] * count if seeds is None else seeds
        for name, values in (("viewpoints", viewpoints), ("saliencies", saliencies), ("seeds", seeds)):
            if values is not None and len(values) != count:
                raise ConfigError(f"{count} captions but {len(values)} {name}: give one for each clip")
        pairs = list(zip(viewpoints or [None] * count, saliencies or [None] * count, strict=True))
        if any(viewpoint is None and saliency is not None for viewpoint, saliency in pairs):
            raise GeometryError("saliency was given without a viewpoint; give a viewpoint as well")
        controls = [None if viewpoint is None else self.control(viewpoint, saliency) for viewpoint, saliency in pairs]
        empty = np.zeros(maps_shape(self.config), np.float32)
        inputs = (self.noise(seeds), self.encode_text(captions), self.encode_text([negative_caption] * count))
        maps = np.stack([empty if control is None else control[0] for control in controls])
        controlled = np.array([control is not None for control in controls])
        settings = settings or self.config.sampler
        latents = jax.device_get(self._sample(self.params, *inputs, maps, settings, controlled))
        return [
            decode(
                self.codecs,
                {name: latent[i] for name, latent in latents.items()},
                captions[i],
                seeds[i],
                *(control[::-1] if control else ()),
            )
            for i, control in enumerate(controls)
        ]


def sampler_settings(
    config: SamplerConfig,
    steps: int | None,
    guidance: Mapping[str, float] | None,
    map_guidance: float | Mapping[str, float] | None,
    timestep_gamma: float | None,
    saliency_guidance: float | Mapping[str, float | None] | None = None,
) -> SamplerConfig:
    """Replaces settings of `config` by those that are not None; raises ConfigError if a scale lacks a modality."""
    scales = {"text_guidance": guidance, "map_guidance": map_guidance, "saliency_guidance": saliency_guidance}
    for name, given in scales.items():
        if isinstance(given, int | float):
            given = dict.fromkeys(MODALITIES, float(given))
        if given is not None:
            if set(given) != set(MODALITIES):
                raise ConfigError(f"{name} needs a number for each of {', '.join(MODALITIES)}, given {dict(given)}")
            audio, video = (None if (scale := given[one]) is None else float(scale) for one in MODALITIES)
            config = replace(config, **{name: PerModality(audio=audio, video=video)})
    if steps is not None:
        config = replace(config, steps=steps)
    return config if timestep_gamma is None else replace(config, timestep_gamma=timestep_gamma)


def default_dtype() -> Dtype:
    """The data type that models compute in unless another is asked for: float32 on CPUs, bfloat16 on GPUs and TPUs."""
    # A CPU has no bfloat16 products: there it would be less exact and slower.
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def load(
    path: str | Path,
    *,
    ema: bool = True,
    mesh: MeshConfig | None = None,
    local: bool = False,
    dtype: Dtype | None = None,
) -> Con360AV:
    """Opens a training run (its newest checkpoint), one of its checkpoints, a pretrained folder or a packaged model.

    Args:
        path: RUN, RUN/checkpoints/STEP, RUN/checkpoints/best, a pretrained folder, or the name of a packaged model.
        ema: for a run, load the moving average of the trained weights (True) or the weights themselves.
        mesh: device mesh; one device if left out. A checkpoint opens on any mesh.
        local: in a run of several processes, each loads its own model on its own devices.
        dtype: data type that the joint model and the VAEs compute in, "float32" or "bfloat16"; if left out, float32 on
            CPUs and bfloat16 on GPUs and TPUs. `train.compute_dtype` of the config belongs to training alone.

    Raises:
        ConfigError: an unknown dtype.
        CheckpointError: nothing to open, corrupt files, the frozen base is missing or another, or no such weights.
        ShardingError: the mesh does not fit the devices or the parameters.
    """
    require(dtype in (None, *get_args(Dtype)), f"dtype {dtype!r}: give one of {', '.join(get_args(Dtype))}")
    path, devices = find_model(path), make_mesh(mesh or MeshConfig(), local)
    if (path / "report.json").is_file():
        pretrained = open_pretrained(path)
        require_average(path, pretrained.report, ema)
        params = _base(pretrained.config, pretrained, devices)
        return Con360AV(pretrained.config, params, pretrained, devices, pretrained.step, dtype)
    item = "ema" if ema else "trainable"
    run_at, step_folder = checkpoint.locate(path, (item, "progress"))
    run = run_folder.open_run(run_at)
    pretrained = open_pretrained(run_folder.find_base(run))
    run_folder.require_same_model(run.config, pretrained.config, f"base {pretrained.folder}")
    untrained, frozen = select(_base(run.config, pretrained, devices), run.config.train.trainable)
    trained = checkpoint.read_arrays(step_folder, {item: checkpoint.abstract(untrained)})[item]
    step = checkpoint.read_progress(step_folder).step
    return Con360AV(run.config, merge(trained, frozen), pretrained, devices, step, dtype)


def _base(config: Config, pretrained: Pretrained, mesh: Mesh) -> Params:
    """The joint model's parameters of a pretrained folder, on the mesh."""
    return pretrained.params("joint", shardings_for(joint_model(config, "float32")[1], mesh))
