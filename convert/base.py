"""The verb `base`: published PyTorch weights become one pretrained folder, part by part, or nothing is written."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import jax.numpy as jnp
import numpy as np
from rich.progress import track

from con360av_jax.base.parts import PARTS, part_factory
from con360av_jax.base.pretrained import write_pretrained
from con360av_jax.base.tokenizer import load_tokenizer
from con360av_jax.config.settings import (
    ClipConfig,
    Config,
    ConnectorConfig,
    MapEncoderConfig,
    MelConfig,
    ModelConfig,
    PerModality,
    require,
)
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.errors import CheckpointError
from con360av_jax.models import functional
from con360av_jax.models.functional import Params, flatten, unflatten
from convert.config_json import to_settings
from convert.part_source import FreshAdditions, Tensors
from convert.rules import Table, to_jax, under
from convert.tables.joint import CONNECTORS, UNET
from convert.tables.motion import ANIMATEDIFF, MOTION_ADAPTER
from convert.tables.text import CLAP_TEXT, CLIP_TEXT
from convert.tables.vae import VAE
from convert.tables.vocoder import VOCODER
from convert.torch_files.folders import Component, Sources

# What no published file holds; connectors join them where the baseline's are not given.
CONTROL = r"(map_encoder|film)/.*"
CONTROL_AND_CONNECTORS = r"(map_encoder|film|connector|environment_encoder)/.*"

# The structure of the published baseline, taken where its config leaves it out; tensors of another one fit no rule.
PUBLISHED_CONNECTORS: dict[str, object] = {
    "with_connector": [False, False, True, True],
    "channel_mult_connector": [2, 4],
    "num_blocks_connector": [1, 1],
    "connector_in_type": "additive",
    "connector_out_input": "x_pred",
}

# Written by our export, because a U-Net's number of heads may differ from its connectors' width of a head.
HEAD_WIDTH = "connector_head_width"

PART_TABLES: dict[str, tuple[str, Table]] = {
    "vae_audio": ("vae_a", VAE),
    "vae_video": ("vae_v", VAE),
    "text_audio": ("text_encoder_a", CLAP_TEXT),
    "text_video": ("text_encoder_v", CLIP_TEXT),
    "vocoder": ("vocoder", VOCODER),
}


def convert_base(sources: Sources, out: Path, dtype: np.dtype | None = None, config: Config | None = None) -> Config:
    """Writes the pretrained folder `out`; returns the config that goes with it.

    Args:
        sources: what to convert.
        out: folder to make.
        dtype: of all floating-point parameters; as stored if left out.
        config: gives what no published file says (clip, training, Map Encoder); the defaults are the paper's.

    Raises:
        CheckpointError: tensors and tables do not fit (all problems at once), a tensor is damaged, not a number or
            infinite, `out` exists, or it cannot be written (then nothing of it is left).
        ConfigError: a config.json asks for something that the models do not have.
    """
    whole = make_config(sources, out.name, config)
    require_space(out, sum(component_bytes(component, dtype) for component in sources.components.values()))
    tokenizers = {name: load_tokenizer(sources.tokenizers[name], name) for name in MODALITIES}
    # Of all parts before the first tensor is read: gigabytes are not written in vain.
    parts = {part: PartSource(part, sources, whole, dtype) for part in PARTS}
    write_pretrained(
        out,
        whole,
        ((part, parts[part].params()) for part in track(PARTS, description="convert")),
        tokenizers,
        sources.origin,
        lambda part, path: {"source": parts[part].origin(path)},
    )
    return whole


class PartSource:
    """One of PARTS before it is read: where each parameter comes from, known to be complete and to fit.

    Args:
        part: one of PARTS.
        sources: what to convert.
        config: of the networks.
        dtype: of all floating-point parameters; as stored if None.

    Raises CheckpointError listing every name and shape that does not fit.
    """

    def __init__(self, part: str, sources: Sources, config: Config, dtype: np.dtype | None):
        wanted = flatten(functional.abstract(part_factory(part, config))[1])
        self.shapes = {path: leaf.shape for path, leaf in wanted.items()}
        self.tensors = Tensors(part_components(part, sources))
        self.dtype = dtype
        self.filled = to_jax(self.tensors, part_table(part, sources), self.shapes, optional=_optional(part, sources))
        self.fresh = FreshAdditions(config.model)

    def params(self) -> Params:
        """What write_pretrained wants: leaves are functions that read or draw a tensor."""
        return unflatten({path: partial(self._read, path) for path in self.shapes})

    def _read(self, path: str) -> np.ndarray:
        return cast_floating(self.filled[path] if path in self.filled else self.fresh.take(path), self.dtype)

    def origin(self, path: str) -> dict[str, str]:
        """File, name in it and sha256 of a parameter that was read; empty for one that was drawn."""
        return self.tensors.origins[self.filled.placed[path][0]] if path in self.filled else {}


def make_config(sources: Sources, name: str, given: Config | None) -> Config:
    """All settings: the networks' from the sources' config.json files, the rest from `given` or the defaults.

    Raises ConfigError if the vocoder's sound or mels are not those of the config.
    """
    files = {part: component.config for part, component in sources.components.items()}
    mel, map_encoder = (given.mel, given.model.map_encoder) if given else (MelConfig(), MapEncoderConfig())
    for option, wanted in (("sampling_rate", mel.sample_rate), ("model_in_dim", mel.bands)):
        found = files["vocoder"].get(option, wanted)
        require(
            found == wanted, f"the vocoder has {option}={found}, the config's mels want {wanted}: change config.mel"
        )
    model = ModelConfig(
        unet_audio=to_settings.audio_unet(files["unet_a"]),
        unet_video=to_settings.video_unet(files["unet_v"], motion_config(sources)),
        connector=connector_config(sources, given.model.connector if given else ConnectorConfig()),
        map_encoder=map_encoder,
        vae=PerModality(audio=to_settings.vae(files["vae_a"]), video=to_settings.vae(files["vae_v"])),
        text=PerModality(
            audio=to_settings.clap_text(files["text_encoder_a"]), video=to_settings.clip_text(files["text_encoder_v"])
        ),
        vocoder=to_settings.vocoder(files["vocoder"]),
    )
    schedule = PerModality(
        audio=to_settings.schedule(sources.schedulers["audio"]), video=to_settings.schedule(sources.schedulers["video"])
    )
    if given:
        return replace(given, name=name, model=model, schedule=schedule)
    return Config(name=name, clip=ClipConfig(), mel=mel, model=model, schedule=schedule)


def motion_config(sources: Sources) -> Mapping[str, object] | None:
    """config.json of the motion adapter; None if the video U-Net brings its own motion modules.

    AnimateDiff's original file has no config. Its heads are those of its published inference settings; the rest can be
    seen in the file or is the U-Net's.
    """
    motion = sources.components.get("motion")
    if motion is None or motion.config:
        return None if motion is None else motion.config
    infos = motion.weights.infos
    frames = {info.shape[1] for name, info in infos.items() if name.endswith(".pe")}
    if len(frames) != 1:
        raise CheckpointError(f"{motion.path}: no positional encoding in it, or several lengths: {sorted(frames)}")
    return {
        "motion_num_attention_heads": 8,
        "motion_max_seq_length": frames.pop(),
        "use_motion_mid_block": any("mid_block" in name for name in infos),
    }


def connector_config(sources: Sources, default: ConnectorConfig) -> ConnectorConfig:
    """Channels of the connectors from their last convolution, width of a head from the U-Net's config.

    Raises ConfigError if the baseline was trained with another structure than the published one.
    """
    connectors = sources.components.get("unet_svg")
    if connectors is None:
        return default
    for name in ("connector_audio_config", "connector_video_config"):
        options = connectors.config.get(name, {})
        given = dict(options) if isinstance(options, Mapping) else {}
        for option, supported in PUBLISHED_CONNECTORS.items():
            found = given.get(option, supported)
            require(found == supported, f"{connectors.path}: {name}.{option}={found}, supported is {supported}")
    info = connectors.weights.infos.get("connector_out_audio.4.2.weight")
    if info is None:
        raise CheckpointError(f"{connectors.path} holds no connectors (connector_out_audio.4.2.weight is missing)")
    # The baseline's connectors take the width of their heads from what the U-Net's config calls so.
    named = sources.components["unet_a"].config.get("attention_head_dim", default.head_width)
    options = connectors.config.get("connector_audio_config", {})
    width = options.get(HEAD_WIDTH, named) if isinstance(options, Mapping) else named
    require(isinstance(width, int), f"{connectors.path}: heads of {width} channels, supported is one width everywhere")
    return ConnectorConfig(channels=info.shape[0], head_width=cast(int, width))


def part_components(part: str, sources: Sources) -> dict[str, Component]:
    """The sources of one of PARTS."""
    if part != "joint":
        return {PART_TABLES[part][0]: sources.components[PART_TABLES[part][0]]}
    names = ("unet_a", "unet_v", "motion", "unet_svg")
    return {name: sources.components[name] for name in names if name in sources.components}


def part_table(part: str, sources: Sources) -> Table:
    """The rules for one of PARTS; names begin with the component's."""
    if part != "joint":
        component, table = PART_TABLES[part]
        return tuple(under(component, "", table))
    motion = sources.components.get("motion")
    original = motion is not None and any("temporal_transformer" in name for name in motion.weights)
    return (
        *under("unet_a", "unet.audio", UNET),
        *under("unet_v", "unet.video", UNET),
        *under("motion", "", ANIMATEDIFF if original else MOTION_ADAPTER),
        *under("unet_svg", "", CONNECTORS),
    )


def _optional(part: str, sources: Sources) -> str:
    if part != "joint":
        return r"(?!)"
    return CONTROL if "unet_svg" in sources.components else CONTROL_AND_CONNECTORS


def cast_floating(value: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """`value` in `dtype` if it is of a floating-point type; None leaves it as it is."""
    return value if dtype is None or not jnp.issubdtype(value.dtype, jnp.floating) else value.astype(dtype)


def component_bytes(component: Component, dtype: np.dtype | None) -> int:
    """What a component's tensors take on disk in `dtype`, or as stored."""
    return sum(
        math.prod(info.shape) * (dtype or jnp.dtype(info.dtype)).itemsize for info in component.weights.infos.values()
    )


def require_space(out: Path, needed: int) -> None:
    """Raises CheckpointError if the disk that `out` goes to has fewer than `needed` bytes free."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{out} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {folder}: make room or go elsewhere"
        )
