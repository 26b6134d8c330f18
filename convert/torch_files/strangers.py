"""Files and folders that people give for the networks wanted here, told by their names: what they are, what to give."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from con360av_jax.errors import CheckpointError


@dataclass(frozen=True)
class Stranger:
    """Something that tensors' names tell: `sign` is found in some of them."""

    sign: str
    what: str
    instead: str
    """Advice: the file to give instead."""


_WHOLE = "give the folder in diffusers' layout"
STRANGERS = (
    Stranger(
        r"motion_modules\..*lora[._]",
        "a motion LoRA",
        "it only changes the layers of a motion module: give that module, or merge the two before",
    ),
    Stranger(
        r"(^|[._])lora[._]|hada_w[12]|lokr_w[12]",
        "a LoRA",
        "it only changes the layers of another network: give that network, or merge the two before",
    ),
    Stranger(
        r"temporal_attentions\.|pos_encoder\.positional_encoding$",
        "a motion module of Hotshot-XL, for Stable Diffusion XL",
        "give one for Stable Diffusion 1.5",
    ),
    Stranger(
        r"(^|\.)controlnet_cond_embedding\.|(^|\.)controlnet_down_blocks\.|^control_model\.",
        "a ControlNet (SparseCtrl is one too)",
        "give the motion module or U-Net that it controls",
    ),
    Stranger(r"^ip_adapter\.|^image_proj\.", "an IP-Adapter", "give the U-Net that it adapts"),
    Stranger(r"^conditioner\.embedders\.", "Stable Diffusion XL in its original layout", "give Stable Diffusion 1.5"),
    Stranger(r"^model\.diffusion_model\.", "a whole model in one file in its original layout", _WHOLE),
)
# The module's own loader reads only names with "motion_modules."; others are weights that it was trained beside.
WITH_UNET = Stranger(
    r"^(module\.)?conv_in\.",
    "a whole U-Net around motion modules (PIA, or a checkpoint of a training)",
    "its U-Net is another than --stable-diffusion: save the tensors with motion_modules in their names alone",
)


def stranger(names: Iterable[str]) -> Stranger | None:
    """The first of STRANGERS whose sign is in some of `names`; None if there is none."""
    names = tuple(names)
    return next((kind for kind in STRANGERS if any(re.search(kind.sign, name) for name in names)), None)


def refuse_strangers(path: Path, names: Iterable[str], motion: bool = False) -> None:
    """Raises CheckpointError if `names` are those of one of STRANGERS, or not of motion modules alone for `motion`."""
    names = tuple(names)
    found = stranger(names)
    if motion and found is None and any(re.search(WITH_UNET.sign, name) for name in names):
        found = WITH_UNET
    if found is not None:
        example = next(name for name in names if re.search(found.sign, name))
        raise CheckpointError(f"{path} is {found.what} (it holds {example}): {found.instead}")


@dataclass(frozen=True)
class OtherModel:
    """A model whose folder looks like one that is wanted."""

    classes: str
    """Pattern of the classes in model_index.json and unet/config.json, or of the latter's kind of further inputs."""
    folder: str
    """Name of a folder that no wanted model has."""
    what: str
    why: str


OTHER_MODELS = (
    OtherModel(
        r"StableDiffusionXL|SDXL|text_time",
        "text_encoder_2",
        "Stable Diffusion XL",
        "its U-Net has three levels, reads two text encoders and is told the size of the image, and motion modules for "
        "1.5 do not fit it: give Stable Diffusion 1.5 or a finetune of it",
    ),
    OtherModel(
        r"AudioLDM2",
        "language_model",
        "AudioLDM 2",
        "its U-Net attends to sequences that a language model writes, where AudioLDM's is given one CLAP embedding: "
        "give AudioLDM, such as cvssp/audioldm-m-full",
    ),
    OtherModel(
        r"StableDiffusion3|Flux|PixArt",
        "transformer",
        "a diffusion transformer",
        "it has no U-Net that motion modules fit into: give Stable Diffusion 1.5 and AudioLDM",
    ),
)


def refuse_other_models(folder: Path) -> None:
    """Raises CheckpointError if `folder` is a file or one of OTHER_MODELS."""
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file, wanted a model's folder in diffusers' layout")
    classes = " ".join(
        str(content.get(option, ""))
        for content in (_json(folder / "model_index.json"), _json(folder / "unet" / "config.json"))
        for option in ("_class_name", "addition_embed_type")
    )
    for model in OTHER_MODELS:
        if re.search(model.classes, classes) or (folder / model.folder).is_dir():
            raise CheckpointError(f"{folder} is {model.what}: {model.why}")


def _json(path: Path) -> Mapping[str, object]:
    """Content of a JSON file; empty if it is missing or no object, which opening the network reports."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, Mapping) else {}
