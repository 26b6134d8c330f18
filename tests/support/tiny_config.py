"""The smallest config with every part: 1 s, 4 frames, latents of 8x8 cells (picture) and 25x8 (sound)."""

from dataclasses import replace

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

DEEP = UNetLevel(width=16, layers=1, heads=2)
PLAIN = UNetLevel(width=16, layers=1, attention=False, heads=2)
TEXT = TextConfig(vocabulary=600, width=16, layers=1, heads=2, mlp_width=32)
TINY = Config(
    name="tiny",
    clip=ClipConfig(seconds=1, hop_seconds=1, frames_per_second=4, height=16, width=16, map_height=16, map_width=32),
    mel=MelConfig(bands=32),
    model=ModelConfig(
        unet_audio=AudioUNetConfig(levels=(PLAIN, DEEP, DEEP, DEEP), class_width=16, norm_groups=8),
        unet_video=VideoUNetConfig(
            levels=(DEEP, DEEP, DEEP, PLAIN),
            context_width=16,
            norm_groups=8,
            motion_heads=2,
            motion_norm_groups=8,
            motion_mid_block=False,
        ),
        connector=ConnectorConfig(channels=16),
        map_encoder=MapEncoderConfig(widths=(8, 8, 8, 16), norm_groups=4, lstm_width=16),
        vae=PerModality(
            audio=VAEConfig(
                widths=(8, 8, 8), in_channels=1, latent_channels=8, scaling_factor=1.0, layers=1, norm_groups=4
            ),
            video=VAEConfig(
                widths=(8, 8), in_channels=3, latent_channels=4, scaling_factor=1.0, layers=1, norm_groups=4
            ),
        ),
        text=PerModality(
            audio=replace(TEXT, tokens=80, projection=16, norm_eps=1e-12, activation="gelu", max_positions=82),
            video=TEXT,
        ),
        vocoder=VocoderConfig(mel_bands=32, initial_width=32),
    ),
    sampler=SamplerConfig(steps=3),
    train=TrainConfig(
        trainable="connectors",
        batch_size=2,
        steps=4,
        learning_rate=1e-3,
        log_every=1,
        checkpoint_every=2,
        ema_decay=0.9,
        compute_dtype="float32",
    ),
)
