"""The denoiser's call signature: what the networks in `models` implement and `diffusion` calls.

Dicts are over the modalities "audio" and "video".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
from jaxtyping import Array, Bool, Float, Int, PyTree

from con360av_jax.config.networks import PerModality
from con360av_jax.config.shapes import MODALITIES

Latents: TypeAlias = dict[str, Float[Array, "batch ..."]]
"""Audio (batch time mel channel), video (batch frame height width channel)."""
Timesteps: TypeAlias = dict[str, Int[Array, "batch"]]
Text: TypeAlias = Mapping[str, Float[Array, "batch ..."]]
"""Audio: CLAP embeddings (batch channel); video: CLIP hidden states (batch token channel)."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DenoiserInputs:
    """Arguments of one call of the denoiser.

    A pytree, so jax.tree.map may put anything in the fields: shapes are not checked at run time.
    """

    latents: Latents
    """Noisy latents."""
    timesteps: Timesteps
    """Timestep of the noise in `latents`, int32, 0 (clean) to the schedule's last step."""
    text: Text
    """Embeddings of the captions; see `Con360AV.encode_text`."""
    clean_estimates: Latents | None = None
    """Predicted clean latents, read by the environment encoders; None means zeros."""
    connector_timesteps: Timesteps | None = None
    """Timesteps of `connector_latents`; None means `timesteps`."""
    connector_latents: Latents | None = None
    """Noisy latents, read by the environment encoders; None means `latents`."""
    maps: Float[Array, "batch frame height width 2"] | None = None
    """Saliency and BASD of the panorama in [0, 1]; see `Con360AV.control`. None skips Map Encoder and FiLM."""
    map_mask: Bool[Array, "batch"] | None = None
    """Rows where it is False get exactly the prediction without maps; None means every row sees its maps."""
    passes: PerModality[tuple[int, ...]] | None = field(default=None, metadata={"static": True})
    """Several predictions for every row of `latents`, static: for each of them, which of the row's maps it sees; None
    is a single one. `text` and outputs then have as many adjacent rows per row of `latents` as that modality has
    predictions, `maps` and `map_mask` as there are maps; what depends on neither is computed once."""
    modalities: tuple[str, ...] = field(default=MODALITIES, metadata={"static": True})
    """Modalities to predict; static. One alone runs its U-Net without connectors and reads nothing of the other."""


Denoise: TypeAlias = Callable[[DenoiserInputs], Latents]
"""Predicts the noise in `DenoiserInputs.latents`, in the same shapes."""
Denoiser: TypeAlias = Callable[[PyTree[Array], DenoiserInputs], Latents]
"""A `Denoise` as a pure function of its parameters as well."""
