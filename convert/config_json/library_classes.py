"""Options of the config.json of each library class, the values that our networks implement, and the defaults.

An option is either read (`read`, with the library's default), or has values that our networks implement (`fixed`, the
library's default first), or influences no number (`idle`).
"""

from collections.abc import Mapping

from convert.config_json.options import Json, Original

# Options that diffusers' EMA adds to the config.json of the network it averages.
EMA = ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")
# The first value switches the option off.
_UNET_FIXED: Mapping[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "transformer_layers_per_block": (1,),
    "reverse_transformer_layers_per_block": (None, 1),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "addition_embed_type": (None,),
    "time_cond_proj_dim": (None,),
    # A dense layer and a 1x1 convolution compute the same numbers.
    "use_linear_projection": (False, True),
}
_UNET_READ: Json = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
}
UNET2D = Original(
    name="UNet2DConditionModel",
    read={
        **_UNET_READ,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": 8,
        "num_attention_heads": None,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "projection_class_embeddings_input_dim": None,
    },
    fixed={
        **_UNET_FIXED,
        "center_input_sample": (False,),
        "flip_sin_to_cos": (True,),
        "freq_shift": (0,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "only_cross_attention": (False,),
        "mid_block_only_cross_attention": (None, False),
        "dropout": (0.0,),
        "dual_cross_attention": (False,),
        "num_class_embeds": (None,),
        "upcast_attention": (False,),
        "resnet_time_scale_shift": ("default",),
        "resnet_skip_time_act": (False,),
        "resnet_out_scale_factor": (1.0,),
        "time_embedding_type": ("positional",),
        "time_embedding_dim": (None,),
        "time_embedding_act_fn": (None,),
        "timestep_post_act": (None,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "attention_type": ("default",),
        "cross_attention_norm": (None,),
    },
    idle=("sample_size", "addition_time_embed_dim", "addition_embed_type_num_heads", *EMA),
)
MOTION_UNET = Original(
    name="UNetMotionModel",
    read={
        **_UNET_READ,
        "down_block_types": ("CrossAttnDownBlockMotion",) * 3 + ("DownBlockMotion",),
        "up_block_types": ("UpBlockMotion",) + ("CrossAttnUpBlockMotion",) * 3,
        "num_attention_heads": 8,
        "motion_num_attention_heads": 8,
        "motion_max_seq_length": 32,
        "use_motion_mid_block": True,
    },
    fixed={
        **_UNET_FIXED,
        "temporal_transformer_layers_per_block": (1,),
        "reverse_temporal_transformer_layers_per_block": (None, 1),
        "transformer_layers_per_mid_block": (None, 1),
        "temporal_transformer_layers_per_mid_block": (1,),
        "reverse_motion_num_attention_heads": (None,),
        "mid_block_layers": (1,),
    },
    idle=("sample_size", "addition_time_embed_dim", "projection_class_embeddings_input_dim", *EMA),
)
MOTION_ADAPTER = Original(
    name="MotionAdapter",
    read={
        "block_out_channels": (320, 640, 1280, 1280),
        "motion_layers_per_block": 2,
        "motion_num_attention_heads": 8,
        "motion_norm_num_groups": 32,
        "motion_max_seq_length": 32,
        "use_motion_mid_block": True,
    },
    fixed={
        "motion_transformer_layers_per_block": (1,),
        "motion_mid_block_layers_per_block": (1,),
        "motion_transformer_layers_per_mid_block": (1,),
        "conv_in_channels": (None,),
    },
    idle=EMA,
)
VAE = Original(
    name="AutoencoderKL",
    read={
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "block_out_channels": (64,),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
    },
    fixed={
        "act_fn": ("silu", "swish"),
        "shift_factor": (None,),
        "latents_mean": (None,),
        "latents_std": (None,),
        "use_quant_conv": (True,),
        "use_post_quant_conv": (True,),
        "mid_block_add_attention": (True,),
    },
    idle=("sample_size", "force_upcast", *EMA),
)
VAE_NORM_EPS = 1e-6  # AutoencoderKL has no option for it
CLIP_TEXT = Original(
    name="CLIPTextModel",
    read={
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "projection_dim": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    },
    fixed={"model_type": ("clip_text_model",)},
    # Dropout acts in training only; the tokenizer puts the first and the last token.
    idle=("attention_dropout", "initializer_range", "initializer_factor", "bos_token_id", "eos_token_id"),
    strict=False,
)
CLAP_TEXT = Original(
    name="ClapTextModelWithProjection",
    read={
        "vocab_size": 50265,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "projection_dim": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 514,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 1,
    },
    fixed={
        "model_type": ("clap_text_model",),
        "type_vocab_size": (1,),
        "projection_hidden_act": ("relu",),
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    },
    idle=(
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "initializer_factor",
        "bos_token_id",
        "eos_token_id",
    ),
    strict=False,
)
VOCODER = Original(
    name="SpeechT5HifiGan",
    read={
        "model_in_dim": 80,
        "upsample_initial_channel": 512,
        "upsample_rates": (4, 4, 4, 4),
        "upsample_kernel_sizes": (8, 8, 8, 8),
        "resblock_kernel_sizes": (3, 7, 11),
        "resblock_dilation_sizes": ((1, 3, 5),) * 3,
        "leaky_relu_slope": 0.1,
        "normalize_before": True,
    },
    fixed={"model_type": ("speecht5_hifigan", "hifigan")},
    # The sampling rate is among the mel settings.
    idle=("sampling_rate", "initializer_range"),
    strict=False,
)

_SCHEDULE_READ: Json = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "steps_offset": 0,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}
_SCHEDULE_FIXED: Mapping[str, tuple[object, ...]] = {
    "trained_betas": (None,),
    "thresholding": (False,),
    "rescale_betas_zero_snr": (False,),
}
SCHEDULERS: Mapping[str, Original] = {
    original.name: original
    for original in (
        Original(
            name="DDIMScheduler",
            read={**_SCHEDULE_READ, "set_alpha_to_one": True, "clip_sample": True},
            fixed=_SCHEDULE_FIXED,
            idle=("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"),
            strict=False,
        ),
        Original(
            name="PNDMScheduler",
            read={**_SCHEDULE_READ, "set_alpha_to_one": False, "clip_sample": False},
            fixed=_SCHEDULE_FIXED,
            idle=("skip_prk_steps",),
            strict=False,
        ),
    )
}
