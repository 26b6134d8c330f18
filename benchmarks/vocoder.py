"""HiFi-GAN at published width, converted JAX against transformers' SpeechT5HifiGan, one clip.

python -m benchmarks.vocoder --out benchmarks/results/vocoder_cpu.json
"""

import numpy as np

from benchmarks import comparison
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import mel_frames


def cases(config: Config) -> list[comparison.Case]:
    """One clip's log-mel to audio samples."""
    frames, bands = mel_frames(config), config.mel.bands
    mel = np.random.default_rng(0).normal(-5, 2, (1, frames, bands)).astype(np.float32)
    samples = frames * int(np.prod(config.model.vocoder.upsample_rates))
    return [
        comparison.Case(
            name=f"vocoder, {samples / config.mel.sample_rate:.2f} s of sound",
            component="vocoder",
            inputs=(mel,),
            ours=lambda vocoder, mel: vocoder(mel),
            theirs=lambda vocoder, mel: vocoder(mel)[:, :samples],
            to_theirs=lambda mel: (mel,),
            from_theirs=lambda sound: sound,
        )
    ]


if __name__ == "__main__":
    comparison.main(__doc__, cases)
