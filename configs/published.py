"""The networks at their published widths: AudioLDM-m, Stable Diffusion 1.5 with AnimateDiff v1-5-2, the baseline.

Converting real weights writes its own config with the numbers from the weights' config.json files, and training takes
networks, mel and schedules from its base: those below are for planning, benchmarks and bases with random weights.
"""

from con360av_jax.config.settings import (
    AudioUNetConfig,
    ClipConfig,
    Config,
    ConnectorConfig,
    MapEncoderConfig,
    MelConfig,
    ModelConfig,
    PerModality,
    TextConfig,
    UNetLevel,
    VAEConfig,
    VideoUNetConfig,
    VocoderConfig,
)

config = Config(
    name="published",
    clip=ClipConfig(),
    mel=MelConfig(),
    model=ModelConfig(
        unet_audio=AudioUNetConfig(
            levels=(
                UNetLevel(width=192, attention=False),
                UNetLevel(width=384),
                UNetLevel(width=576),
                UNetLevel(width=960),
            ),
        ),
        unet_video=VideoUNetConfig(
            levels=(
                UNetLevel(width=320),
                UNetLevel(width=640),
                UNetLevel(width=1280),
                UNetLevel(width=1280, attention=False),
            ),
        ),
        connector=ConnectorConfig(),
        map_encoder=MapEncoderConfig(),
        vae=PerModality(
            # The factor depends on the checkpoint: this is that of AudioLDM-s.
            audio=VAEConfig(
                widths=(128, 256, 512), in_channels=1, latent_channels=8, scaling_factor=0.9392935633659363
            ),
            video=VAEConfig(widths=(128, 256, 512, 512), in_channels=3, latent_channels=4, scaling_factor=0.18215),
        ),
        text=PerModality(
            audio=TextConfig(
                vocabulary=50265,
                tokens=512,
                norm_eps=1e-12,
                activation="gelu",
                pad_token=1,
                max_positions=514,
            ),
            video=TextConfig(vocabulary=49408),
        ),
        vocoder=VocoderConfig(),
    ),
)
