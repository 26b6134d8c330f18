"""All networks at a width that trains on a laptop, for `con360av demo` and smoke tests."""

from con360av_jax.config.settings import (
    AudioUNetConfig,
    ClipConfig,
    Config,
    ConnectorConfig,
    MapEncoderConfig,
    MelConfig,
    ModelConfig,
    PerModality,
    SamplerConfig,
    TextConfig,
    TrainConfig,
    UNetLevel,
    VAEConfig,
    VideoUNetConfig,
    VocoderConfig,
)

LEVELS = (
    UNetLevel(width=32, layers=1, attention=False, heads=4),
    UNetLevel(width=48, layers=1, attention=False, heads=4),
    UNetLevel(width=64, layers=1, heads=4),
    UNetLevel(width=64, layers=1, attention=False, heads=4),
)
config = Config(
    name="debug",
    clip=ClipConfig(height=64, width=64, map_height=32, map_width=64),
    mel=MelConfig(),
    model=ModelConfig(
        unet_audio=AudioUNetConfig(
            levels=LEVELS,
            class_width=64,
            norm_groups=16,
        ),
        unet_video=VideoUNetConfig(
            levels=LEVELS,
            context_width=64,
            norm_groups=16,
            motion_heads=4,
            motion_norm_groups=16,
            motion_mid_block=False,
        ),
        connector=ConnectorConfig(channels=64),
        map_encoder=MapEncoderConfig(widths=(16, 32, 32, 64), norm_groups=8, lstm_width=64),
        vae=PerModality(
            audio=VAEConfig(
                widths=(16, 32, 32), in_channels=1, latent_channels=8, scaling_factor=1.0, layers=1, norm_groups=8
            ),
            video=VAEConfig(
                widths=(16, 32, 32, 64), in_channels=3, latent_channels=4, scaling_factor=1.0, layers=1, norm_groups=8
            ),
        ),
        text=PerModality(
            audio=TextConfig(
                vocabulary=1024,
                width=64,
                layers=2,
                heads=4,
                mlp_width=128,
                tokens=80,
                projection=64,
                norm_eps=1e-12,
                activation="gelu",
                pad_token=1,
                max_positions=82,
            ),
            video=TextConfig(vocabulary=1024, width=64, layers=2, heads=4, mlp_width=128),
        ),
        vocoder=VocoderConfig(initial_width=64),
    ),
    sampler=SamplerConfig(steps=25),
    train=TrainConfig(
        # The published set and the last layers of the U-Nets: these are random here and would hide what is learnt.
        trainable=r"(map_encoder|film|connector|environment_encoder)/.*"
        r"|unet/(audio|video)/(up_blocks/3|conv_norm_out|conv_out)/.*",
        batch_size=2,
        steps=48,
        learning_rate=1e-3,
        weight_decay=0.0,
        ema_decay=0.0,
        log_every=1,
        checkpoint_every=24,
        compute_dtype="float32",
    ),
)
