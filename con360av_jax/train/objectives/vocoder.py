"""Pretraining of the vocoder on excerpts of log-mels and their audio (train/objectives/spectra.py).

(6) loss            multi-resolution STFT (4) + mel_weight * log-mel (5), without adversarial loss
(7) mel L1          log-mel distance (5) between whole held-out clips and what the vocoder makes of their log-mels, nats
(8) round trip      the same with the log-mels encoded and decoded by the base's audio VAE before, nats
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from con360av_jax.base.networks import vae_functions
from con360av_jax.base.parts import codec_factory
from con360av_jax.config.networks import require
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import mel_frames
from con360av_jax.models import functional
from con360av_jax.models.functional import Params
from con360av_jax.train.objectives.objective import AUDIO_EXCERPTS, Batch, Keys, Objective, Sums, window
from con360av_jax.train.objectives.spectra import log_mel, resolutions, stft_distance

PART, VAE = "vocoder", "vae_audio"
UNITS = {"mel_l1": "nats", "round_trip_mel_l1": "nats"}


def objective(config: Config) -> Objective:
    """Returns the objective; raises ConfigError if the excerpts do not fit the clips or the vocoder."""
    settings, mel = config.pretrain.vocoder, config.mel
    longest = max(mel.window, *(resolution.window for resolution in resolutions(mel.sample_rate)))
    require(
        longest / 2 < settings.frames * mel.hop <= mel_frames(config) * mel.hop,
        f"pretrain.vocoder.frames={settings.frames} must be more than {longest // 2 // mel.hop}, for the windows of "
        f"the loss, and at most a clip's {mel_frames(config)}",
    )
    made_per_frame = int(np.prod(config.model.vocoder.upsample_rates))
    require(
        made_per_frame == mel.hop, f"the vocoder makes {made_per_frame} samples per mel frame, but mel.hop={mel.hop}"
    )
    dtype = jnp.dtype(config.train.compute_dtype)
    graphdef, _ = functional.abstract(codec_factory(PART, config.model, dtype))
    encode, decode = vae_functions(VAE, config.model, dtype)

    def example(arrays: Mapping[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
        part = window(len(arrays["mel"]), settings.frames, random)
        return {"mel": arrays["mel"][part], "sound": arrays["sound"][part.start * mel.hop : part.stop * mel.hop]}

    def whole(arrays: Mapping[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
        return {name: arrays[name] for name in ("mel", "sound")}

    def loss(params: Params, batch: Batch, keys: Keys) -> tuple[Array, dict[str, Array]]:
        y, made = _audio(batch["sound"]), functional.apply(graphdef, params[PART], batch["mel"])
        convergence, logarithms = stft_distance(y, made, mel.sample_rate)
        terms = {
            "convergence": convergence,
            "log_magnitude": logarithms,
            "mel": jnp.mean(jnp.abs(log_mel(y, mel) - log_mel(made, mel))),
        }
        loss = convergence + logarithms + settings.mel_weight * terms["mel"]
        return loss, {"loss": loss, **terms}

    def measure(params: Params, batch: Batch) -> tuple[Sums, dict[str, Array]]:
        wanted = log_mel(_audio(batch["sound"]), mel)
        mean, _ = encode(params[VAE], batch["mel"][..., None])
        decoded = decode(params[VAE], mean)[..., 0]
        made, again = (functional.apply(graphdef, params[PART], given) for given in (batch["mel"], decoded))
        sums = {
            "error": jnp.sum(jnp.abs(wanted - log_mel(made, mel))),
            "round_trip_error": jnp.sum(jnp.abs(wanted - log_mel(again, mel))),
            "values": jnp.float32(wanted.size),
        }
        return sums, {"input_audio": _audio(batch["sound"]), "output_audio": made}

    return Objective(
        part=PART, trains=(PART,), reads=(VAE,), fields=("mel", "sound"), scenes="audio", example=example,
        examples_per_scene=AUDIO_EXCERPTS, whole=whole, loss=loss, measure=measure, summarise=summarise, units=UNITS,
    )  # fmt: skip


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns mel L1 (7), also as "loss", and that of the round trip (8)."""
    error = sums["error"] / sums["values"]
    return {"loss": error, "mel_l1": error, "round_trip_mel_l1": sums["round_trip_error"] / sums["values"]}


def _audio(sound: Array) -> Array:
    """16-bit samples in [-1, 1)."""
    return sound.astype(jnp.float32) / 32768
