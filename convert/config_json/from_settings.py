"""Settings of our networks to config.json files that diffusers and transformers load; inverse of to_settings.py."""

from collections.abc import Sequence

from con360av_jax.config.settings import (
    AudioUNetConfig,
    NoiseSchedule,
    TextConfig,
    UNetLevel,
    VAEConfig,
    VideoUNetConfig,
    VocoderConfig,
    require,
)
from convert.config_json.library_classes import VAE_NORM_EPS


def audio_unet_json(config: AudioUNetConfig) -> dict[str, object]:
    """AudioLDM's U-Net as diffusers' UNet2DConditionModel."""
    return {
        "_class_name": "UNet2DConditionModel",
        **_unet_json(config, "2D"),
        "attention_head_dim": _compact([level.heads for level in config.levels]),
        # The widths themselves: the second attention reads what the first one does.
        "cross_attention_dim": [level.width for level in config.levels],
        "class_embed_type": "simple_projection",
        "class_embeddings_concat": True,
        "projection_class_embeddings_input_dim": config.class_width,
    }


def video_unet_json(config: VideoUNetConfig) -> dict[str, object]:
    """AnimateDiff's U-Net as diffusers' UNetMotionModel; raises ConfigError where that has no option."""
    require(
        config.motion_norm_groups == config.norm_groups,
        f"UNetMotionModel gives motion modules the U-Net's groups, but motion_norm_groups={config.motion_norm_groups} "
        f"and norm_groups={config.norm_groups}: export a model where they are equal",
    )
    return {
        "_class_name": "UNetMotionModel",
        **_unet_json(config, "Motion"),
        "num_attention_heads": _compact([level.heads for level in config.levels]),
        "cross_attention_dim": config.context_width,
        "motion_num_attention_heads": config.motion_heads,
        "motion_max_seq_length": config.motion_max_frames,
        "use_motion_mid_block": config.motion_mid_block,
    }


def _unet_json(config: AudioUNetConfig | VideoUNetConfig, kind: str) -> dict[str, object]:
    levels: Sequence[UNetLevel] = config.levels
    names = {True: "CrossAttn", False: ""}
    return {
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "down_block_types": [f"{names[level.attention]}DownBlock{kind}" for level in levels],
        "up_block_types": [f"{names[level.attention]}UpBlock{kind}" for level in reversed(levels)],
        "block_out_channels": [level.width for level in levels],
        "layers_per_block": _compact([level.layers for level in levels]),
        "norm_num_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "act_fn": "silu",
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "use_linear_projection": False,
    }


def _compact(values: list[int]) -> int | list[int]:
    """A single number if all values are equal, as in published files."""
    return values[0] if len(set(values)) == 1 else values


def vae_json(config: VAEConfig) -> dict[str, object]:
    """An autoencoder as diffusers' AutoencoderKL; raises ConfigError where that has no option."""
    require(
        config.norm_eps == VAE_NORM_EPS,
        f"AutoencoderKL's norm_eps is {VAE_NORM_EPS}, but norm_eps={config.norm_eps}: it cannot be exported",
    )
    levels = len(config.widths)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.layers,
        "act_fn": "silu",
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "scaling_factor": config.scaling_factor,
    }


def clip_text_json(config: TextConfig) -> dict[str, object]:
    """The video's text encoder as transformers' CLIPTextModel."""
    return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **_text_json(config)}


def clap_text_json(config: TextConfig) -> dict[str, object]:
    """The audio's text encoder as transformers' ClapTextModelWithProjection."""
    return {
        "architectures": ["ClapTextModelWithProjection"],
        "model_type": "clap_text_model",
        **_text_json(config),
        "projection_hidden_act": "relu",
        "type_vocab_size": 1,
    }


def _text_json(config: TextConfig) -> dict[str, object]:
    return {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "projection_dim": config.projection,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": config.activation,
        "pad_token_id": config.pad_token,
    }


def vocoder_json(config: VocoderConfig, sample_rate: int = 16_000) -> dict[str, object]:
    """The vocoder as transformers' SpeechT5HifiGan; `sample_rate` in Hz influences no weight."""
    return {
        "architectures": ["SpeechT5HifiGan"],
        "model_type": "speecht5_hifigan",
        "model_in_dim": config.mel_bands,
        "sampling_rate": sample_rate,
        "upsample_initial_channel": config.initial_width,
        "upsample_rates": list(config.upsample_rates),
        "upsample_kernel_sizes": list(config.upsample_kernels),
        "resblock_kernel_sizes": list(config.resblock_kernels),
        "resblock_dilation_sizes": [list(config.resblock_dilations) for _ in config.resblock_kernels],
        "leaky_relu_slope": config.leaky_slope,
        "normalize_before": config.normalize_before,
    }


def schedule_json(config: NoiseSchedule) -> dict[str, object]:
    """A noise schedule as diffusers' DDIMScheduler."""
    return {
        "_class_name": "DDIMScheduler",
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": config.kind,
        "num_train_timesteps": config.train_steps,
        "steps_offset": config.steps_offset,
        "timestep_spacing": config.spacing,
        "set_alpha_to_one": config.set_alpha_to_one,
        "clip_sample": False,
        "prediction_type": "v_prediction" if config.prediction == "v" else "epsilon",
    }
