"""The original PyTorch networks: built from their config.json, filled from the sources, run with all layers recorded.

Outputs are converted to our layout: channels last, float32.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from con360av_jax.errors import CheckpointError
from convert.base_config import motion_config
from convert.config_json import from_settings, to_settings
from convert.part_source import part_table
from convert.rules import place
from convert.skipped import require_formulas
from convert.torch_files.folders import Component, Sources
from convert.torch_files.weights import require_finite

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Arrays = dict[str, np.ndarray]

CLASSES: Mapping[str, tuple[str, str]] = {
    "unet_a": ("diffusers", "UNet2DConditionModel"),
    "unet_v": ("diffusers", "UNetMotionModel"),
    "vae_a": ("diffusers", "AutoencoderKL"),
    "vae_v": ("diffusers", "AutoencoderKL"),
    "text_encoder_a": ("transformers", "ClapTextModelWithProjection"),
    "text_encoder_v": ("transformers", "CLIPTextModel"),
    "vocoder": ("transformers", "SpeechT5HifiGan"),
}
# Layers with channels second although they return only three axes (or, for a norm, any number).
CHANNELS_FIRST = ("Conv1d", "ConvTranspose1d", "GroupNorm", "HifiGanResidualBlock")


def build(component: str, pretrained_part: str, sources: Sources) -> "Module":
    """Builds the library's network with the source's weights in float32, ready to run.

    Args:
        component: key of CLASSES.
        pretrained_part: part of a pretrained folder that contains the converted component.
        sources: configuration and weights.

    Raises CheckpointError if PyTorch or the libraries are not installed, or if weights and network do not fit.
    """
    try:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # importing diffusers warns about its own dependencies
            import diffusers
            import transformers

            config = dict(_config(component, sources))
            library, name = CLASSES[component]
            if library == "diffusers":
                # The file may name a fork's class; the library's own is built here.
                model = getattr(diffusers, name).from_config({**config, "_class_name": name})
            else:
                kind = getattr(transformers, name)
                model = kind(kind.config_class.from_dict(config))
    except ImportError as error:
        raise CheckpointError(f"verify needs {error.name}: pip install -e '.[torch]'") from error
    if any(tensor.dtype != torch.float32 for tensor in model.parameters()):
        model = model.float()
    model = model.eval().requires_grad_(False)
    _fill(model, component, pretrained_part, sources)
    return model


def _config(component: str, sources: Sources) -> Mapping[str, object]:
    config = sources.components[component].config
    if component == "unet_v" and "motion" in sources.components:
        return from_settings.video_unet_json(to_settings.video_unet(config, motion_config(sources)))
    section = config.get("text_config")
    return section if isinstance(section, Mapping) else config


def _fill(model: "Module", component: str, pretrained_part: str, sources: Sources) -> None:
    """Copies every source tensor; only buffers, which the library computes itself, may stay unfilled.

    Raises CheckpointError if something does not fit, or if a tensor that the library too would compute holds other
    numbers (convert/skipped.py).
    """
    import torch

    state = model.state_dict()
    today = names_in_library(model, component, pretrained_part, sources)
    paths = {key: path for path, key in _source_keys(component, pretrained_part, sources).items()}
    filled, problems, computed = set(), [], {}
    for prefix, source in _sources_of(component, sources).items():
        for key in source.weights:
            # Names of older library versions are translated by the table.
            name = key if key in state else today.get(paths.get((source.path, key), ""))
            if name is None and (source.path, key) not in paths:
                computed[f"{prefix}.{key}"] = source.weights[key]
                continue
            tensor = source.weights[key]
            if name is None or name in filled or tensor.size != state[name].numel():
                problems.append(f"{key} {tensor.shape} has no place of its own")
                continue
            require_finite(f"{source.path}: {key}", tensor)
            state[name].copy_(torch.from_numpy(tensor.astype(np.float32)).reshape(state[name].shape))
            filled.add(name)
    require_formulas(computed, part_table(pretrained_part, sources))
    buffers = dict(model.named_buffers())
    problems += [f"{name}: no tensor for it" for name in state if name not in filled and name not in buffers]
    if problems:
        raise CheckpointError(
            f"{component}: {len(problems)} weights and the library's network do not fit: {'; '.join(problems[:8])}"
        )


def _sources_of(component: str, sources: Sources) -> dict[str, Component]:
    names = ("unet_v", "motion") if component == "unet_v" else (component,)
    return {name: sources.components[name] for name in names if name in sources.components}


def _source_keys(component: str, pretrained_part: str, sources: Sources) -> dict[str, tuple[Path, str]]:
    """File and name of every converted source tensor, by its path in the pretrained part's parameters."""
    table, keys = part_table(pretrained_part, sources), {}
    for prefix, source in _sources_of(component, sources).items():
        for name, (path, _) in place((f"{prefix}.{key}" for key in source.weights), table)[0].items():
            keys[path] = (source.path, name.removeprefix(f"{prefix}."))
    return keys


def stored_types(component: str, pretrained_part: str, sources: Sources) -> dict[str, str]:
    """dtype of every converted source tensor, by its path in the pretrained part's parameters."""
    infos = {source.path: source.weights.infos for source in _sources_of(component, sources).values()}
    keys = _source_keys(component, pretrained_part, sources)
    return {path: infos[file][key].dtype for path, (file, key) in keys.items()}


def names_in_library(model: "Module", component: str, pretrained_part: str, sources: Sources) -> dict[str, str]:
    """Name of every tensor in the library, by its path in the pretrained part's parameters."""
    placed, _ = place((f"{component}.{name}" for name in model.state_dict()), part_table(pretrained_part, sources))
    return {path: name.partition(".")[2] for name, (path, _) in placed.items()}


@contextmanager
def recording(model: "Module") -> Iterator[Arrays]:
    """While open, records the output of every submodule that runs under its name, channels last."""
    outputs: Arrays = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: "Module", inputs: object, output: object) -> None:
            tensor = _main_tensor(output)
            if tensor is not None:
                first = tensor.ndim > 3 or (tensor.ndim > 2 and type(module).__name__ in CHANNELS_FIRST)
                # A copy: some originals add to a layer's output in place.
                outputs[name] = np.array((tensor.movedim(1, -1) if first else tensor).numpy())

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _main_tensor(output: object) -> "Tensor | None":
    """The main tensor of a layer's output: the pooled one if there is one, else the first of several."""
    import torch

    pooled = getattr(output, "pooler_output", None)
    if isinstance(pooled, torch.Tensor):
        return pooled
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, Sequence) and output:
        output = output[0]
    return output if isinstance(output, torch.Tensor) and output.is_floating_point() else None


def run(component: str, model: Any, inputs: Arrays) -> Arrays:
    """Runs the original; inputs and outputs are in our layout and under our names (jax_networks.py)."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        outputs = RUNS[component](model, tensors)
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in outputs.items()}


def _run_unet_a(model: Any, inputs: "dict[str, Tensor]") -> "dict[str, Tensor]":
    x = inputs["x"][:, 0].movedim(-1, 1)
    noise = model(x, inputs["timesteps"], encoder_hidden_states=None, class_labels=inputs["text"]).sample
    return {"noise": noise.movedim(1, -1)[:, None]}


def _run_unet_v(model: Any, inputs: "dict[str, Tensor]") -> "dict[str, Tensor]":
    # AnimateDiff's pipeline repeats the text for every frame, the network does not.
    text = inputs["text"].repeat_interleave(inputs["x"].shape[1], 0)
    noise = model(inputs["x"].movedim(-1, 1), inputs["timesteps"], encoder_hidden_states=text).sample
    return {"noise": noise.movedim(1, -1)}


def _run_vae(model: Any, inputs: "dict[str, Tensor]") -> "dict[str, Tensor]":
    moments = model.encode(inputs["x"].movedim(-1, 1)).latent_dist
    decoded = model.decode(inputs["z"].movedim(-1, 1)).sample
    return {name: x.movedim(1, -1) for name, x in (("mean", moments.mean), ("std", moments.std), ("decoded", decoded))}


def _run_clap(model: Any, inputs: "dict[str, Tensor]") -> "dict[str, Tensor]":
    import torch

    embedding = model(inputs["tokens"].long(), inputs["mask"].long()).text_embeds
    # AudioLDM's pipeline normalises, not the text encoder.
    return {"embedding": torch.nn.functional.normalize(embedding, dim=-1)}


def _run_clip(model: Any, inputs: "dict[str, Tensor]") -> "dict[str, Tensor]":
    return {"hidden states": model(inputs["tokens"].long()).last_hidden_state}


def _run_vocoder(model: Any, inputs: "dict[str, Tensor]") -> "dict[str, Tensor]":
    samples = inputs["mel"].shape[1] * int(np.prod(model.config.upsample_rates))
    return {"sound": model(inputs["mel"])[:, :samples]}


RUNS: "Mapping[str, Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]]" = {
    "unet_a": _run_unet_a,
    "unet_v": _run_unet_v,
    "vae_a": _run_vae,
    "vae_v": _run_vae,
    "text_encoder_a": _run_clap,
    "text_encoder_v": _run_clip,
    "vocoder": _run_vocoder,
}
