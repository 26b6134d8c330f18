"""Folders of published weights in the layouts of AudioLDM, Stable Diffusion, AnimateDiff and the baseline.

audioldm          diffusers' AudioLDMPipeline: unet, vae, text_encoder, tokenizer, vocoder, scheduler
stable_diffusion  diffusers' StableDiffusionPipeline (1.5): unet, vae, text_encoder, tokenizer, scheduler
motion            diffusers' MotionAdapter folder, or AnimateDiff's original motion module file
connectors        the baseline's unet_svg folder, or its weights file alone
baseline          the baseline's whole pipeline: unet_a, unet_v, unet_svg, vae_a, vae_v, text_encoder_a, ...
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from con360av_jax.errors import CheckpointError
from convert.torch_files.strangers import refuse_other_models, refuse_strangers
from convert.torch_files.weight_norm import fold_weight_norm
from convert.torch_files.weights import Weights, open_weights

Json = Mapping[str, object]

# Component to its folder in each layout.
AUDIOLDM = {"unet_a": "unet", "vae_a": "vae", "text_encoder_a": "text_encoder", "vocoder": "vocoder"}
STABLE_DIFFUSION = {"unet_v": "unet", "vae_v": "vae", "text_encoder_v": "text_encoder"}
BASELINE = (*AUDIOLDM, *STABLE_DIFFUSION, "unet_svg")


@dataclass(frozen=True, kw_only=True)
class Component:
    """One network: its tensors, and its config.json (empty for a weights file without one)."""

    path: Path
    weights: Weights
    config: Json = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All inputs of one pretrained folder."""

    components: Mapping[str, Component]
    """unet_a, vae_a, text_encoder_a, vocoder, unet_v, vae_v, text_encoder_v; "motion" and "unet_svg" if given."""
    tokenizers: Mapping[str, Path]
    """Tokenizer folders by modality."""
    schedulers: Mapping[str, Json]
    """Content of scheduler_config.json by modality."""
    origin: str
    """Names of the source folders in words, for report.json."""


def published(audioldm: Path, stable_diffusion: Path, motion: Path, connectors: Path | None) -> Sources:
    """Opens the folders that the authors publish; raises CheckpointError naming what is missing or another model."""
    for folder in (audioldm, stable_diffusion):
        refuse_other_models(folder)
    components = {name: component(audioldm / folder) for name, folder in AUDIOLDM.items()}
    components |= {name: component(stable_diffusion / folder) for name, folder in STABLE_DIFFUSION.items()}
    components["motion"] = component(motion)
    refuse_strangers(motion, components["motion"].weights, motion=True)
    if connectors is not None:
        components["unet_svg"] = component(connectors)
    names = [audioldm.name, stable_diffusion.name, motion.name, *([] if connectors is None else [connectors.name])]
    return Sources(
        components=components,
        tokenizers={"audio": audioldm / "tokenizer", "video": stable_diffusion / "tokenizer"},
        schedulers={
            "audio": read_json(audioldm / "scheduler" / "scheduler_config.json"),
            "video": _animatediff_schedule(read_json(stable_diffusion / "scheduler" / "scheduler_config.json")),
        },
        origin="weights of " + ", ".join(names),
    )


def baseline(folder: Path) -> Sources:
    """Opens the audio-video baseline's saved pipeline; raises CheckpointError naming what is missing."""
    return Sources(
        components={name: component(folder / name) for name in BASELINE},
        tokenizers={"audio": folder / "tokenizer_a", "video": folder / "tokenizer_v"},
        schedulers={
            "audio": read_json(folder / "scheduler_a" / "scheduler_config.json"),
            "video": read_json(folder / "scheduler_v" / "scheduler_config.json"),
        },
        origin=f"weights of {folder.name}",
    )


def component(path: Path) -> Component:
    """Opens a network's folder (config.json beside weights) or its weights file; folds weight normalisation.

    Raises CheckpointError if it is missing, corrupt, or no network but a LoRA or the like (strangers.py).
    """
    config = path / "config.json" if path.is_dir() else path.with_name("config.json")
    weights = open_weights(path)
    refuse_strangers(path, weights)
    return Component(
        path=path,
        weights=fold_weight_norm(weights),
        config=read_json(config) if path.is_dir() or config.is_file() else {},
    )


def read_json(path: Path) -> Json:
    """Reads a JSON object; raises CheckpointError if the file is missing or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): download the whole folder") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): download it again") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no JSON object: download it again")
    return content


def _animatediff_schedule(scheduler: Json) -> Json:
    """Stable Diffusion's scheduler as AnimateDiff and the baseline run it.

    The motion modules were trained with *linear* betas between the same ends, and are sampled in steps that include the
    last one; Stable Diffusion's own file says otherwise.
    """
    return {**scheduler, "beta_schedule": "linear", "timestep_spacing": "linspace", "steps_offset": 1}
