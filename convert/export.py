"""The `export` command: a pretrained folder or a training run as PyTorch folders for diffusers and transformers.

unet_a, unet_v (UNetMotionModel), vae_a, vae_v, text_encoder_a, text_encoder_v, vocoder, tokenizer_a, tokenizer_v and
scheduler_a, scheduler_v are those libraries' own layouts; unet_svg is the audio-video baseline's; control
holds Map Encoder and FiLM (tables/control.py), which no library implements.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from con360av_jax.config.settings import Config, ModelConfig
from con360av_jax.errors import CheckpointError
from con360av_jax.model import Con360AV, load
from con360av_jax.models.functional import Params, flatten
from con360av_jax.runtime.files import replacing, write_text
from convert.base import require_space
from convert.base_config import HEAD_WIDTH, PUBLISHED_CONNECTORS
from convert.config_json import from_settings
from convert.rules import Rule, Shape, Table, place, to_torch
from convert.tables import motion, text
from convert.tables.control import CONTROL
from convert.tables.joint import CONNECTORS, UNET
from convert.tables.text import CLAP_TEXT, CLIP_TEXT
from convert.tables.vae import VAE
from convert.tables.vocoder import VOCODER
from convert.torch_files.weights import cast_floating, write_weights

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model.safetensors", "model.safetensors"
# Shape of an array in PyTorch, from its shape here: the inverse of each layout in rules.py.
TORCH_SHAPES: dict[str, Callable[[Shape], Shape]] = {
    "same": lambda shape: shape,
    "linear": lambda shape: shape[::-1],
    "conv2d": lambda shape: (shape[3], shape[2], shape[0], shape[1]),
    "pointwise": lambda shape: (shape[1], shape[0], 1, 1),
    "pointwise3d": lambda shape: (shape[1], shape[0], 1, 1, 1),
    "vector": lambda shape: (*shape, 1, 1, 1),
}


def export(source: Path, out: Path, dtype: np.dtype | None = None, ema: bool = True) -> None:
    """Writes the folder `out` atomically.

    Args:
        source: a pretrained folder, a training run or one of its checkpoints.
        out: folder to make.
        dtype: dtype of all floating-point tensors; None keeps what `source` holds.
        ema: whether a run's moving average of the trained weights is exported instead of the last step's weights.

    Raises CheckpointError if `source` cannot be read, `out` exists or cannot be written.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists already: remove it or choose another folder")
    model = load(source, ema=ema)
    totals = model.codecs.pretrained.report["totals"]
    parameters = sum(part["parameters"] for part in totals.values()) if isinstance(totals, dict) else 0
    require_space(out, parameters * (dtype or np.dtype(np.float32)).itemsize)
    with replacing(out, CheckpointError) as aside:
        aside.mkdir()
        params = {path: np.asarray(leaf) for path, leaf in flatten(model.params).items()}
        _export_joint(aside, model.config, params, dtype)
        _export_codecs(aside, model, dtype)


def _export_joint(out: Path, config: Config, params: Params, dtype: np.dtype | None) -> None:
    model = config.model
    for folder, name, settings in (
        ("unet_a", "audio", from_settings.audio_unet_json(model.unet_audio)),
        ("unet_v", "video", from_settings.video_unet_json(model.unet_video)),
    ):
        prefix = f"unet/{name}/"
        unet = {path.removeprefix(prefix): leaf for path, leaf in params.items() if path.startswith(prefix)}
        _write(out / folder, settings, unet, UNET, dtype, lambda _, shape: motion.skipped(shape))
    own = (
        (out / "unet_svg" / DIFFUSERS, CONNECTORS, connectors_json(model)),
        (out / "control" / DIFFUSERS, CONTROL, control_json(model)),
    )
    require_a_name_for_each([path for path in params if not path.startswith("unet/")], (*CONNECTORS, *CONTROL), params)
    for path, table, settings in own:
        path.parent.mkdir()
        write_text(path.with_name("config.json"), _json(settings))
        tensors = to_torch(params, table, names_and_shapes(table, params))
        write_weights(path, _cast(tensors, dtype), {"format": "pt"})


def _export_codecs(out: Path, model: Con360AV, dtype: np.dtype | None) -> None:
    settings, schedules, pretrained = model.config.model, model.config.schedule, model.codecs.pretrained
    # A small vocabulary does not have the library's default ids.
    clip = {name: getattr(pretrained.tokenizers["video"], name) for name in ("bos_token_id", "eos_token_id")}
    for folder, part, table, content in (
        ("vae_a", "vae_audio", VAE, from_settings.vae_json(settings.vae.audio)),
        ("vae_v", "vae_video", VAE, from_settings.vae_json(settings.vae.video)),
        ("text_encoder_a", "text_audio", CLAP_TEXT, from_settings.clap_text_json(settings.text.audio)),
        ("text_encoder_v", "text_video", CLIP_TEXT, from_settings.clip_text_json(settings.text.video) | clip),
        ("vocoder", "vocoder", VOCODER, from_settings.vocoder_json(settings.vocoder, model.config.mel.sample_rate)),
    ):
        _write(out / folder, content, flatten(pretrained.params(part)), table, dtype, text.skipped)
    for name, schedule in (("a", schedules.audio), ("v", schedules.video)):
        folder = out / f"scheduler_{name}"
        folder.mkdir()
        write_text(folder / "scheduler_config.json", _json(from_settings.schedule_json(schedule)))
        pretrained.tokenizers["audio" if name == "a" else "video"].save_pretrained(out / f"tokenizer_{name}")


def _write(
    folder: Path,
    settings: Mapping[str, object],
    params: Params,
    table: Table,
    dtype: np.dtype | None,
    skipped: Callable[[str, Shape], np.ndarray],
) -> None:
    """Writes one network of a library: config.json, and weights under the library's names and shapes."""
    wanted = library_shapes(settings)
    tensors = to_torch(params, table, wanted)
    tensors |= {name: skipped(name, wanted[name]) for name in wanted if name not in tensors}
    if unused := len(params) - len({path for path, _ in place(tensors, table)[0].values()}):
        raise CheckpointError(f"{unused} parameters have no place in a {folder.name}: the table does not fit the model")
    folder.mkdir()
    write_text(folder / "config.json", _json(settings))
    name = DIFFUSERS if "_class_name" in settings else TRANSFORMERS
    write_weights(folder / name, _cast(tensors, dtype), {"format": "pt"})


def library_shapes(settings: Mapping[str, object]) -> dict[str, Shape]:
    """Tensor names and shapes of the network that a config.json describes, without allocating tensors.

    Raises CheckpointError if PyTorch or the libraries are not installed.
    """
    try:
        import diffusers
        import torch
        import transformers
    except ImportError as error:
        raise CheckpointError(f"export needs {error.name}: pip install -e '.[torch]'") from error
    with torch.device("meta"):
        if "_class_name" in settings:
            model = getattr(diffusers, str(settings["_class_name"])).from_config(dict(settings))
        else:
            config = transformers.AutoConfig.for_model(**dict(cast(Mapping[str, Any], settings)))
            model = getattr(transformers, cast(list[str], settings["architectures"])[0])(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _cast(tensors: Mapping[str, np.ndarray], dtype: np.dtype | None) -> dict[str, np.ndarray]:
    return {name: cast_floating(tensor, dtype) for name, tensor in tensors.items()}


def _json(settings: Mapping[str, object]) -> str:
    return json.dumps(settings, indent=2) + "\n"


def connectors_json(model: ModelConfig) -> dict[str, object]:
    """config.json of the baseline's unet_svg."""
    options = {
        **PUBLISHED_CONNECTORS,
        "connector_channel": model.connector.channels,
        HEAD_WIDTH: model.connector.head_width,
    }
    return {
        "_class_name": "UNetModelSVG",
        "unet_audio_config": from_settings.audio_unet_json(model.unet_audio),
        "unet_video_config": from_settings.video_unet_json(model.unet_video),
        "connector_audio_config": options,
        "connector_video_config": options,
    }


def control_json(model: ModelConfig) -> dict[str, object]:
    """config.json of the control folder, whose tensors are described in tables/control.py."""
    return {"_class_name": "Con360AVControl", **asdict(model.map_encoder), "maps": ["saliency", "basd"]}


def names_and_shapes(table: Table, params: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    """Published names of `params` and their PyTorch shapes, under a table whose patterns match finitely many names."""
    names = [name for entry in table if isinstance(entry, Rule) for name in spellings(entry.pattern)]
    placed, _ = place(names, table)
    return {
        name: TORCH_SHAPES[layout.name](tuple(params[path].shape))
        for name, (path, layout) in placed.items()
        if path in params
    }


def require_a_name_for_each(paths: Iterable[str], table: Table, params: Mapping[str, np.ndarray]) -> None:
    """Raises CheckpointError if a parameter at `paths` has no published name and would be missing in the export."""
    named = {path for path, _ in place(names_and_shapes(table, params), table)[0].values()}
    if missing := [path for path in paths if path not in named]:
        raise CheckpointError(
            f"{len(missing)} parameters have no published name, for example {missing[0]}: nothing exported; "
            "add them to convert/tables"
        )


def spellings(pattern: str) -> list[str]:
    """Every string that a pattern of literals, alternatives (a|b) and classes [abc] matches."""
    choice = re.search(r"(?<!\\)\[([^\]]+)\]|(?<!\\)\(((?:[^()\\]|\\.)*)\)", pattern)
    if choice is None:
        return [re.sub(r"\\(.)", r"\1", pattern)]
    options = list(choice[1]) if choice[1] else choice[2].split("|")
    before, after = pattern[: choice.start()], pattern[choice.end() :]
    return [text for option in options for text in spellings(before + option + after)]
