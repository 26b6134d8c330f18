"""A small model that is trained from nothing on two CPU cores: clips of 2 s at 4 frames per second and 64x64 pixels."""

from dataclasses import replace
from functools import partial

from con360av_jax.config.settings import (
    AUDIO_SCHEDULE,
    AudioJudgePretraining,
    AudioUNetConfig,
    AudioUNetPretraining,
    AudioVAEPretraining,
    ClipConfig,
    Config,
    ConnectorConfig,
    MapEncoderConfig,
    MelConfig,
    ModelConfig,
    MotionPretraining,
    NoiseSchedule,
    PerModality,
    PretrainConfig,
    Recipe,
    TextConfig,
    TrainConfig,
    UNetLevel,
    VAEConfig,
    VideoJudgePretraining,
    VideoUNetConfig,
    VideoUNetPretraining,
    VideoVAEPretraining,
    VocoderConfig,
    VocoderPretraining,
)

# With AdamW and uniform timesteps no object was learnt: benchmarks/README.md, "What made objects appear".
_recipe = partial(Recipe, learning_rate=2e-3, optimizer="muon", timesteps="logit_normal")

config = Config(
    name="small",
    clip=ClipConfig(seconds=2, hop_seconds=2, frames_per_second=4, height=64, width=64, map_height=32, map_width=64),
    mel=MelConfig(),
    model=ModelConfig(
        unet_audio=AudioUNetConfig(
            levels=(
                UNetLevel(width=32, layers=1, attention=False, heads=4),
                UNetLevel(width=48, layers=1, heads=4),
                UNetLevel(width=48, layers=1, heads=4),
                UNetLevel(width=48, layers=1, attention=False, heads=4),
            ),
            class_width=64,
            norm_groups=8,
        ),
        unet_video=VideoUNetConfig(
            levels=(
                UNetLevel(width=32, layers=1, attention=False, heads=4),
                UNetLevel(width=48, layers=1, heads=4),
                UNetLevel(width=64, layers=1, heads=4),
                UNetLevel(width=64, layers=1, attention=False, heads=4),
            ),
            latent_channels=6,
            context_width=64,
            norm_groups=8,
            motion_heads=4,
            motion_norm_groups=8,
            motion_max_frames=8,
            motion_mid_block=False,
        ),
        connector=ConnectorConfig(channels=32),
        map_encoder=MapEncoderConfig(widths=(16, 32, 32, 64), norm_groups=8, lstm_width=32),
        vae=PerModality(
            audio=VAEConfig(
                widths=(8, 16, 32, 32), in_channels=1, latent_channels=8, scaling_factor=1.0, layers=1, norm_groups=2
            ),
            video=VAEConfig(
                widths=(16, 32, 64), in_channels=3, latent_channels=6, scaling_factor=1.0, layers=1, norm_groups=2
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
                max_positions=82,
            ),
            video=TextConfig(vocabulary=1024, width=64, layers=2, heads=4, mlp_width=128),
        ),
        vocoder=VocoderConfig(initial_width=128, resblock_kernels=(3, 7), resblock_dilations=(1, 3)),
    ),
    # Most of the variance of these scenes is their palette. Under the published schedule the mean of a small latent
    # shows through the noise of the last timestep, and samples keep the mean of the noise whatever the caption says;
    # and where captions have to decide it, the error of a predicted noise hardly depends on them.
    schedule=PerModality(
        audio=replace(AUDIO_SCHEDULE, prediction="v"),
        video=NoiseSchedule(beta_start=0.00085, beta_end=0.02, kind="linear", spacing="linspace", prediction="v"),
    ),
    train=TrainConfig(
        batch_size=8,
        steps=3000,
        learning_rate=1e-3,
        weight_decay=0.0,
        ema_decay=0.999,
        checkpoint_every=500,
        compute_dtype="float32",
    ),
    pretrain=PretrainConfig(
        # Crops around objects: on whole frames the error of objects falls half as fast.
        vae_video=VideoVAEPretraining(
            crop=32, object_share=0.7, object_weight=6.0, recipe=Recipe(steps=10_000, batch_size=32)
        ),
        vae_audio=AudioVAEPretraining(recipe=Recipe(steps=8_000)),
        vocoder=VocoderPretraining(recipe=Recipe(steps=10_000)),
        unet_video=VideoUNetPretraining(recipe=_recipe(steps=16_000, batch_size=16)),
        motion=MotionPretraining(recipe=_recipe(steps=2_500)),
        unet_audio=AudioUNetPretraining(recipe=_recipe(steps=7_500)),
        judge_video=VideoJudgePretraining(recipe=Recipe(steps=3_000, batch_size=16, learning_rate=2e-3)),
        judge_audio=AudioJudgePretraining(recipe=Recipe(steps=2_000, learning_rate=2e-3)),
    ),
)
