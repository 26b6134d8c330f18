"""Config of a pretrained folder: the networks' settings come from the config.json files of its sources."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

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
from con360av_jax.errors import CheckpointError, some
from convert.config_json import to_settings
from convert.torch_files.folders import Component, Sources

# Structure of the published baseline, assumed where its config omits it; tensors of another structure fit no rule.
PUBLISHED_CONNECTORS: dict[str, object] = {
    "with_connector": [False, False, True, True],
    "channel_mult_connector": [2, 4],
    "num_blocks_connector": [1, 1],
    "connector_in_type": "additive",
    "connector_out_input": "x_pred",
}


# Length of positional encodings where a file has none: the default of diffusers' MotionAdapter.
MOTION_FRAMES = 32

# Written by our export, because a U-Net's number of heads may differ from its connectors' width of a head.
HEAD_WIDTH = "connector_head_width"


def make_config(sources: Sources, name: str, given: Config | None) -> Config:
    """Config of a pretrained folder: networks from the sources' config.json files, the rest from `given` or defaults.

    Raises ConfigError if the vocoder's sample rate or mel bands are not those of the config, CheckpointError if a
    positional encoding is not as long as the config.json says.
    """
    files = {part: component.config for part, component in sources.components.items()}
    mel, map_encoder = (given.mel, given.model.map_encoder) if given else (MelConfig(), MapEncoderConfig())
    for option, wanted in (("sampling_rate", mel.sample_rate), ("model_in_dim", mel.bands)):
        found = files["vocoder"].get(option, wanted)
        require(found == wanted, f"the vocoder has {option}={found}, the config has {wanted}: change config.mel")
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
    require_table_lengths(sources, model.unet_video.motion_max_frames)
    if given:
        return replace(given, name=name, model=model, schedule=schedule)
    return Config(name=name, clip=ClipConfig(), mel=mel, model=model, schedule=schedule)


def motion_config(sources: Sources) -> Mapping[str, object] | None:
    """config.json of the motion adapter; None if the video U-Net has its own motion modules.

    AnimateDiff's original file has no config: its heads are those of its published inference settings, the rest
    follows from the file or is the U-Net's.

    Raises CheckpointError if its positional encodings differ in length, or it is made for another number of levels.
    """
    motion = sources.components.get("motion")
    if motion is None:
        return None
    require_levels(motion, sources.components["unet_v"])
    if motion.config:
        return motion.config
    infos = motion.weights.infos
    # AnimateLCM's has no positional encodings, which are computed anyway.
    frames = {info.shape[1:2] for name, info in infos.items() if name.endswith(".pe")} or {(MOTION_FRAMES,)}
    if len(frames) != 1 or () in frames:
        raise CheckpointError(f"{motion.path}: its positional encodings are of several lengths: {sorted(frames)}")
    return {
        "motion_num_attention_heads": 8,
        "motion_max_seq_length": frames.pop()[0],
        "use_motion_mid_block": any("mid_block" in name for name in infos),
    }


def require_levels(motion: Component, unet: Component) -> None:
    """Raises CheckpointError if motion modules are made for a U-Net of another number of levels, as that of SDXL."""
    pattern = re.compile(r"(?:module\.)?down_blocks\.(\d+)\.")
    found, wanted = (
        len({match[1] for name in component.weights if (match := pattern.match(name))}) for component in (motion, unet)
    )
    if found != wanted:
        made = "Stable Diffusion XL, whose U-Net has 3 levels" if found == 3 else f"a U-Net of {found} levels"
        raise CheckpointError(
            f"{motion.path} is made for {made}; this one has {wanted}: give motion modules for Stable Diffusion 1.5"
        )


def require_table_lengths(sources: Sources, frames: int) -> None:
    """Raises CheckpointError naming the positional encodings of motion modules that are not for `frames` frames."""
    others = [
        f"{name} has the shape {info.shape}"
        for component in ("unet_v", "motion")
        if component in sources.components
        for name, info in sources.components[component].weights.infos.items()
        if name.endswith(".pe") and info.shape[1:2] != (frames,)
    ]
    if others:
        raise CheckpointError(
            f"motion_max_seq_length is {frames}, but positional encodings are of other lengths: {some(others, '; ')}"
        )


def connector_config(sources: Sources, default: ConnectorConfig) -> ConnectorConfig:
    """Settings of the connectors: channels from their last convolution, head width from the U-Net's config.

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
    # The baseline's connectors take their head width from the option of this name in the U-Net's config.
    named = sources.components["unet_a"].config.get("attention_head_dim", default.head_width)
    options = connectors.config.get("connector_audio_config", {})
    width = options.get(HEAD_WIDTH, named) if isinstance(options, Mapping) else named
    require(isinstance(width, int), f"{connectors.path}: heads of {width} channels, supported is one width everywhere")
    return ConnectorConfig(channels=info.shape[0], head_width=cast(int, width))
