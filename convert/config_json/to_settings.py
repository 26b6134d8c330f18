"""config.json of the libraries' networks to settings of ours: every number is read, unsupported options are refused.

An option is either read, or has values that our networks implement (all others are refused), or influences no number.
A missing option has the library's default, as its own `from_config` would set it.
"""

from collections.abc import Mapping
from typing import Literal

from con360av_jax.config.settings import (
    AudioUNetConfig,
    NoiseSchedule,
    TextConfig,
    UNetLevel,
    VAEConfig,
    VideoUNetConfig,
    VocoderConfig,
)
from con360av_jax.errors import ConfigError
from convert.config_json import library_classes
from convert.config_json.options import Json, Options, entries, whole_numbers


def audio_unet(config: Json) -> AudioUNetConfig:
    """AudioLDM's U-Net from diffusers' UNet2DConditionModel; raises ConfigError."""
    options = Options(library_classes.UNET2D, config)
    options.only("class_embed_type", "simple_projection")
    options.only("class_embeddings_concat", True)
    levels = _levels(options)
    contexts = options.per_level("cross_attention_dim", len(levels))
    for number, (level, context) in enumerate(zip(levels, contexts, strict=True)):
        if _has_context(number, levels) and context != level.width:
            widths = [level.width for level in levels]
            options.refuse("cross_attention_dim", f"not implemented, supported is {widths} (attention on itself)")
    return AudioUNetConfig(
        levels=levels,
        latent_channels=_latent_channels(options),
        class_width=options.integer("projection_class_embeddings_input_dim"),
        norm_groups=options.integer("norm_num_groups"),
        norm_eps=options.number("norm_eps"),
    )


def video_unet(config: Json, motion: Json | None) -> VideoUNetConfig:
    """AnimateDiff's U-Net from Stable Diffusion's UNet2DConditionModel and a MotionAdapter, or from a UNetMotionModel.

    `motion` is None for the latter. Raises ConfigError.

    In `motion`, widths, layers and groups may be missing (AnimateDiff's own files come without a config): they are the
    U-Net's.
    """
    options = Options(library_classes.MOTION_UNET if motion is None else library_classes.UNET2D, config)
    if motion is not None:
        options.only("class_embed_type", None)
        options.only("class_embeddings_concat", False)
    levels = _levels(options)
    groups = options.integer("norm_num_groups")
    contexts = options.per_level("cross_attention_dim", len(levels))
    used = {context for number, context in enumerate(contexts) if _has_context(number, levels)}
    if len(used) != 1:
        options.refuse("cross_attention_dim", "not implemented, supported is the same width at all levels")
    modules = options if motion is None else _motion_options(motion, levels, groups)
    return VideoUNetConfig(
        levels=levels,
        latent_channels=_latent_channels(options),
        context_width=used.pop(),
        norm_groups=groups,
        norm_eps=options.number("norm_eps"),
        motion_heads=modules.for_all("motion_num_attention_heads"),
        # UNetMotionModel builds its motion modules with its own groups.
        motion_norm_groups=groups,
        motion_max_frames=modules.integer("motion_max_seq_length"),
        motion_mid_block=modules.flag("use_motion_mid_block"),
    )


def _motion_options(motion: Json, levels: tuple[UNetLevel, ...], groups: int) -> Options:
    options, count = Options(library_classes.MOTION_ADAPTER, motion), len(levels)
    for name, wanted in (
        ("block_out_channels", [level.width for level in levels]),
        ("motion_layers_per_block", [level.layers for level in levels]),
        # diffusers would silently run the adapter with the U-Net's groups.
        ("motion_norm_num_groups", [groups] * count),
    ):
        if name in motion and list(options.per_level(name, count)) != wanted:
            options.refuse(name, f"not that of the U-Net, {wanted}: choose the adapter made for it")
    return options


def _levels(options: Options) -> tuple[UNetLevel, ...]:
    """The levels of a U-Net; its up blocks must mirror its down blocks."""
    widths = options.integers("block_out_channels")
    kind = "Motion" if options.original is library_classes.MOTION_UNET else "2D"
    downwards = _blocks(options, "down_block_types", (f"CrossAttnDownBlock{kind}", f"DownBlock{kind}"), len(widths))
    upwards = _blocks(options, "up_block_types", (f"CrossAttnUpBlock{kind}", f"UpBlock{kind}"), len(widths))
    attention = ["CrossAttn" in block for block in downwards]
    if attention != ["CrossAttn" in block for block in reversed(upwards)]:
        options.refuse("up_block_types", "not implemented, supported is attention where down blocks have it")
    # UNet2DConditionModel counts heads under the name attention_head_dim.
    legacy = kind == "2D" and options["num_attention_heads"] is None
    heads = "attention_head_dim" if legacy else "num_attention_heads"
    layers, counts = (options.per_level(name, len(widths)) for name in ("layers_per_block", heads))
    return tuple(
        UNetLevel(width=width, layers=layers[number], attention=attention[number], heads=counts[number])
        for number, width in enumerate(widths)
    )


def _blocks(options: Options, name: str, kinds: tuple[str, ...], levels: int) -> list[str]:
    """Block type of each level, one of `kinds`."""
    options.only(name, *kinds)
    blocks = entries(options[name])
    if len(blocks) != levels:
        options.refuse(name, f"a list of {len(blocks)}, but there are {levels} levels")
    return [str(block) for block in blocks]


def _has_context(number: int, levels: tuple[UNetLevel, ...]) -> bool:
    """Whether the level has attention; the middle block always has, so the deepest level counts."""
    return levels[number].attention or number == len(levels) - 1


def _latent_channels(options: Options) -> int:
    options.only("out_channels", options.integer("in_channels"))
    return options.integer("in_channels")


def vae(config: Json) -> VAEConfig:
    """An autoencoder from diffusers' AutoencoderKL; raises ConfigError."""
    options = Options(library_classes.VAE, config)
    widths = options.integers("block_out_channels")
    _blocks(options, "down_block_types", ("DownEncoderBlock2D",), len(widths))
    _blocks(options, "up_block_types", ("UpDecoderBlock2D",), len(widths))
    options.only("out_channels", options.integer("in_channels"))
    if any(width % options.integer("norm_num_groups") for width in widths):
        options.refuse("norm_num_groups", f"no divisor of block_out_channels={list(widths)}")
    return VAEConfig(
        widths=widths,
        in_channels=options.integer("in_channels"),
        latent_channels=options.integer("latent_channels"),
        scaling_factor=options.number("scaling_factor"),
        layers=options.integer("layers_per_block"),
        norm_groups=options.integer("norm_num_groups"),
        norm_eps=library_classes.VAE_NORM_EPS,
    )


def clip_text(config: Json) -> TextConfig:
    """The video's text encoder from transformers' CLIPTextModel; raises ConfigError."""
    options = Options(library_classes.CLIP_TEXT, _text_part(config))
    positions = options.integer("max_position_embeddings")
    return _text(options, tokens=positions, positions=positions)


def clap_text(config: Json) -> TextConfig:
    """The audio's text encoder from transformers' ClapTextModelWithProjection; raises ConfigError."""
    options = Options(library_classes.CLAP_TEXT, _text_part(config))
    positions = options.integer("max_position_embeddings")
    # RoBERTa's positions begin after the padding token's id.
    return _text(options, tokens=positions - options.integer("pad_token_id", least=0) - 1, positions=positions)


def _text_part(config: Json) -> Json:
    """The text encoder's options; config.json of a whole CLIP or CLAP holds them in a section."""
    section = config.get("text_config")
    return section if isinstance(section, Mapping) else config


def _text(options: Options, tokens: int, positions: int) -> TextConfig:
    options.only("hidden_act", "quick_gelu", "gelu")
    if options.integer("hidden_size") % options.integer("num_attention_heads"):
        options.refuse("num_attention_heads", f"no divisor of hidden_size={options['hidden_size']}")
    return TextConfig(
        vocabulary=options.integer("vocab_size"),
        width=options.integer("hidden_size"),
        layers=options.integer("num_hidden_layers"),
        heads=options.integer("num_attention_heads"),
        mlp_width=options.integer("intermediate_size"),
        tokens=tokens,
        projection=options.integer("projection_dim"),
        norm_eps=options.number("layer_norm_eps"),
        activation="quick_gelu" if options["hidden_act"] == "quick_gelu" else "gelu",
        pad_token=options.integer("pad_token_id", least=0),
        max_positions=positions,
    )


def vocoder(config: Json) -> VocoderConfig:
    """The vocoder from transformers' SpeechT5HifiGan; raises ConfigError."""
    options = Options(library_classes.VOCODER, config)
    kernels, dilations = options.integers("resblock_kernel_sizes"), options["resblock_dilation_sizes"]
    lists = [whole_numbers(entry) for entry in dilations] if isinstance(dilations, list | tuple) else []
    complete = sum(map(len, lists)) == len(entries(dilations))
    if len(lists) != len(kernels) or len(set(lists)) != 1 or not complete:
        options.refuse("resblock_dilation_sizes", f"not implemented, supported is the same list {len(kernels)} times")
    return VocoderConfig(
        mel_bands=options.integer("model_in_dim"),
        initial_width=options.integer("upsample_initial_channel"),
        upsample_rates=options.integers("upsample_rates"),
        upsample_kernels=options.integers("upsample_kernel_sizes"),
        resblock_kernels=kernels,
        resblock_dilations=lists[0],
        leaky_slope=options.number("leaky_relu_slope"),
        normalize_before=options.flag("normalize_before"),
    )


_SPACINGS: Mapping[str, Literal["leading", "linspace", "trailing"]] = {
    "leading": "leading",
    "linspace": "linspace",
    "trailing": "trailing",
}


def schedule(config: Json) -> NoiseSchedule:
    """A noise schedule from diffusers' DDIMScheduler or PNDMScheduler; raises ConfigError."""
    name = str(config.get("_class_name", "DDIMScheduler"))
    # The baseline saves its pipeline with its own scheduler class, whose noise schedule is DDIM's.
    name = "DDIMScheduler" if name == "DDIMSchedulerRev" else name
    if name not in library_classes.SCHEDULERS:
        names = " or ".join(library_classes.SCHEDULERS)
        raise ConfigError(f"scheduler {name!r} is not implemented, supported is {names}: write one of these")
    options = Options(library_classes.SCHEDULERS[name], config)
    options.only("clip_sample", False)
    options.only("beta_schedule", "linear", "scaled_linear")
    options.only("timestep_spacing", *_SPACINGS)
    options.only("prediction_type", "epsilon", "v_prediction")
    return NoiseSchedule(
        beta_start=options.number("beta_start"),
        beta_end=options.number("beta_end"),
        kind="linear" if options["beta_schedule"] == "linear" else "scaled_linear",
        train_steps=options.integer("num_train_timesteps"),
        steps_offset=options.integer("steps_offset", least=0),
        spacing=_SPACINGS[str(options["timestep_spacing"])],
        prediction="v" if options["prediction_type"] == "v_prediction" else "epsilon",
        set_alpha_to_one=options.flag("set_alpha_to_one"),
    )
