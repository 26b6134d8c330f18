"""The joint model: two U-Nets, connectors between them, and FiLM by maps of the panorama on both."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TypeAlias, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from con360av_jax.config.settings import AudioUNetConfig, Config, ModelConfig, Remat, VideoUNetConfig
from con360av_jax.config.shapes import MODALITIES, padded_time
from con360av_jax.denoiser import Denoiser, DenoiserInputs, Latents
from con360av_jax.errors import ConfigError
from con360av_jax.models import functional
from con360av_jax.models.connector import Connector, TimeAxis
from con360av_jax.models.environment import EnvironmentEncoder
from con360av_jax.models.film import FiLM, pool, pool_time
from con360av_jax.models.functional import Params
from con360av_jax.models.map_encoder import MapEncoder
from con360av_jax.models.remat import run
from con360av_jax.models.unet import AtSite, UNet

# Sites of connectors: a block's name and the U-Net level whose width it has.
SITES = {"down_2": 2, "down_3": 3, "up_0": 3, "up_1": 2}
TIME_AXIS: dict[str, TimeAxis] = {"audio": "height", "video": "frame"}
OTHER = {"audio": "video", "video": "audio"}
Pool: TypeAlias = Callable[[tuple[int, int, int]], Array]
"""The Map Encoder's output on a site's (frame, height, width)."""


class JointModel(nnx.Module):
    """Predicts the noise of both modalities (Con360-AV, arXiv 2510.06060; see docs/design/model.md).

    Parameters: unet, environment_encoder, connector and film, each with "audio" and "video"; map_encoder.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
        compute_dtype: DTypeLike = jnp.float32,
        remat: Remat = "none",
    ):
        self.compute_dtype = jnp.dtype(compute_dtype)
        self.remat: Remat = remat
        unets: dict[str, AudioUNetConfig | VideoUNetConfig] = {"audio": config.unet_audio, "video": config.unet_video}
        self.unet = nnx.Dict(
            {name: UNet(unet, rngs=rngs, dtype=compute_dtype, remat=remat) for name, unet in unets.items()}
        )
        new = additions(config, rngs=rngs, compute_dtype=compute_dtype)
        self.environment_encoder, self.connector = new["environment_encoder"](), new["connector"]()
        self.map_encoder, self.film = new["map_encoder"](), new["film"]()

    def __call__(self, inputs: DenoiserInputs, taps: dict[str, Array] | None = None) -> Latents:
        """Predicts the noise in `inputs.latents`, in their shapes and dtype.

        `taps`, if given, is filled with intermediate features: "environment_encoder/NAME/STAGE" and
        "connector/NAME/SITE". Raises ConfigError for an unknown modality.
        """
        latents, modalities = inputs.latents, inputs.modalities
        for name in modalities:
            if name not in MODALITIES:
                raise ConfigError(f"modality {name!r} given, but there are {', '.join(MODALITIES)}: choose among these")
        noisy = self._features(latents, modalities)
        if len(modalities) == 1:
            sites: dict[str, AtSite | None] = dict.fromkeys(modalities)
        else:
            told, clean, steps = inputs.connector_latents, inputs.clean_estimates, inputs.connector_timesteps
            sequences = self._sequences(
                noisy if told is None else self._features(told, modalities),
                None if clean is None else self._features(clean, modalities),
                inputs.timesteps if steps is None else steps,
                taps,
            )
            pools: Mapping[str, Pool | None] = dict.fromkeys(modalities)
            if inputs.maps is not None:
                pools = on_grids(self.map_encoder(inputs.maps), latents["audio"].shape[1])
            sites = {name: self._connect(name, sequences, pools[name], inputs, taps) for name in modalities}
        outputs = {}
        for name in modalities:
            x, timesteps = (each_pass(inputs, name, value[name]) for value in (noisy, inputs.timesteps))
            noise = self.unet[name](x, timesteps, inputs.text[name], sites[name])
            outputs[name] = from_features(name, noise, latents[name])
        return outputs

    def _features(self, latents: Latents, modalities: tuple[str, ...]) -> Latents:
        """`to_features` of the `modalities`."""
        return {name: to_features(name, latents[name], self.compute_dtype) for name in modalities}

    def _sequences(
        self, latents: Latents, clean: Latents | None, timesteps: dict[str, Array], taps: dict[str, Array] | None
    ) -> dict[str, Array]:
        """Environment encoders' outputs by modality, each (batch, its time, channel)."""
        sequences = {}
        for name, noisy in latents.items():
            estimate = jnp.zeros_like(noisy) if clean is None else clean[name]
            # The frozen U-Net's time embedding; audio's class embedding is left out.
            embedding = self.unet[name].time_embedding(timesteps[name])
            encoder = self.environment_encoder[name]
            stages = None if taps is None else []
            sequences[name] = encoder(jnp.concatenate([noisy, estimate], axis=-1), embedding, stages)
            if taps is not None and stages is not None:
                taps |= {f"environment_encoder/{name}/{stage}": output for stage, output in enumerate(stages)}
        return sequences

    def _connect(
        self,
        name: str,
        sequences: dict[str, Array],
        pool_maps: Pool | None,
        inputs: DenoiserInputs,
        taps: dict[str, Array] | None,
    ) -> AtSite:
        """The function that runs `name`'s connector, and FiLM where there are maps, at each site."""

        sequence = each_pass(inputs, name, sequences[OTHER[name]])

        def at_site(site: str, x: Array) -> Array:
            if site not in SITES:
                return x
            modulation = None
            if pool_maps is not None:
                frames, height, width = x.shape[1:4]
                modulation = self.film[name][site](pool_maps((frames, height, width)), inputs.map_mask)
                modulation = jax.tree.map(partial(own_maps, inputs, name), modulation)
            output = run(self.connector[name][site], x, sequence, modulation, remat=self.remat)
            if taps is not None:
                taps[f"connector/{name}/{site}"] = output
            return output

        return at_site


def each_pass(inputs: DenoiserInputs, modality: str, x: Float[Array, "batch ..."]) -> Float[Array, "passes ..."]:
    """Rows of `x`, which has one per row of latents, for every prediction of a modality."""
    if inputs.passes is None:
        return x
    return repeat(x, "batch ... -> (batch passes) ...", passes=len(getattr(inputs.passes, modality)))


def own_maps(inputs: DenoiserInputs, modality: str, x: Float[Array, "maps ..."]) -> Float[Array, "passes ..."]:
    """Rows of `x`, which has one per map, for every prediction of a modality."""
    if inputs.passes is None:
        return x
    by_row = rearrange(x, "(batch maps) ... -> batch maps ...", batch=len(inputs.latents[modality]))
    return rearrange(by_row[:, np.array(getattr(inputs.passes, modality))], "batch passes ... -> (batch passes) ...")


def to_features(
    modality: str, latent: Float[Array, "batch ..."], dtype: DTypeLike
) -> Float[Array, "batch frame height width channel"]:
    """A latent as a U-Net reads it: audio is one frame, with its time padded with zeros."""
    x = latent.astype(dtype)
    if modality == "video":
        return x
    time = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (0, padded_time(time) - time), (0, 0), (0, 0)))
    return rearrange(padded, "b time mel c -> b 1 time mel c")


def from_features(
    modality: str, features: Float[Array, "batch frame height width channel"], like: Float[Array, "batch ..."]
) -> Float[Array, "batch ..."]:
    """The inverse of `to_features`, in the shape and dtype of the latent `like`."""
    return (features[:, 0, : like.shape[1]] if modality == "audio" else features).astype(like.dtype)


def on_grids(map_features: Array, audio_steps: int) -> dict[str, Pool]:
    """Functions that average the Map Encoder's output on a site's (frame, height, width), per modality.

    Audio has no position in the view: it gets the average over the whole panorama at each time.
    """
    return {
        "audio": lambda grid: pool_time(map_features, cells=grid[1], steps=audio_steps),
        "video": lambda grid: pool(map_features, grid),
    }


@lru_cache(maxsize=8)
def joint_model(config: Config, dtype: DTypeLike) -> tuple[Denoiser, Params]:
    """The joint model as a pure function that computes in `dtype`, and its parameters' shapes; nothing is allocated.

    Shapes are jax.ShapeDtypeStruct; parameters are float32 whatever `dtype` is.
    """

    def build(rngs: nnx.Rngs) -> JointModel:
        return JointModel(
            config.model,
            rngs=rngs,
            compute_dtype=dtype,
            remat=config.train.remat,
        )

    graphdef, shapes = functional.abstract(build)
    return partial(functional.apply, graphdef), shapes


class Additions(TypedDict):
    """Builders of the parts that the joint model adds to the two U-Nets; dicts are over modalities (and sites)."""

    environment_encoder: Callable[[], nnx.Dict]
    connector: Callable[[], nnx.Dict]
    map_encoder: Callable[[], MapEncoder]
    film: Callable[[], nnx.Dict]


def additions(config: ModelConfig, *, rngs: nnx.Rngs, compute_dtype: DTypeLike = jnp.float32) -> Additions:
    """Builders of freshly initialised modules for one joint model."""
    unets: dict[str, AudioUNetConfig | VideoUNetConfig] = {"audio": config.unet_audio, "video": config.unet_video}

    def at_sites(make: Callable[[str, int], nnx.Module]) -> nnx.Dict:
        """`make(modality, width)` for every modality and site."""
        return nnx.Dict(
            {
                name: nnx.Dict({site: make(name, unet.levels[level].width) for site, level in SITES.items()})
                for name, unet in unets.items()
            }
        )

    def encoder(name: str) -> nnx.Module:
        return EnvironmentEncoder(
            unets[name], config.connector, time_axis=TIME_AXIS[name], rngs=rngs, dtype=compute_dtype
        )

    def connector(name: str, width: int) -> nnx.Module:
        groups = unets[name].norm_groups
        return Connector(
            width, config.connector, groups=groups, time_axis=TIME_AXIS[name], rngs=rngs, dtype=compute_dtype
        )

    def film(name: str, width: int) -> nnx.Module:
        return FiLM(config.map_encoder.lstm_width, width, rngs=rngs, dtype=compute_dtype)

    return Additions(
        environment_encoder=lambda: nnx.Dict({name: encoder(name) for name in unets}),
        connector=lambda: at_sites(connector),
        map_encoder=lambda: MapEncoder(config.map_encoder, rngs=rngs, dtype=compute_dtype),
        film=lambda: at_sites(film),
    )
