"""Config of a pretrained folder: the networks' settings come from the config.json files of its sources."""

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
from con360av_jax.errors import CheckpointError
from convert.config_json import to_settings
from convert.torch_files.folders import Sources

# Structure of the published baseline, assumed where its config omits it; tensors of another structure fit no rule.
PUBLISHED_CONNECTORS: dict[str, object] = {
    "with_connector": [False, False, True, True],
    "channel_mult_connector": [2, 4],
    "num_blocks_connector": [1, 1],
    "connector_in_type": "additive",
    "connector_out_input": "x_pred",
}


# Written by our export, because a U-Net's number of heads may differ from its connectors' width of a head.
HEAD_WIDTH = "connector_head_width"


def make_config(sources: Sources, name: str, given: Config | None) -> Config:
    """Config of a pretrained folder: networks from the sources' config.json files, the rest from `given` or defaults.

    Raises ConfigError if the vocoder's sample rate or mel bands are not those of the config.
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
    if given:
        return replace(given, name=name, model=model, schedule=schedule)
    return Config(name=name, clip=ClipConfig(), mel=mel, model=model, schedule=schedule)


def motion_config(sources: Sources) -> Mapping[str, object] | None:
    """config.json of the motion adapter; None if the video U-Net has its own motion modules.

    AnimateDiff's original file has no config: its heads are those of its published inference settings, the rest
    follows from the file or is the U-Net's.
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
