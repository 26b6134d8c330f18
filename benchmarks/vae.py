"""Both autoencoders at published width, converted JAX against diffusers' AutoencoderKL, decoding and encoding.

python -m benchmarks.vae --out benchmarks/results/vae_cpu.json
"""

import numpy as np

from benchmarks import comparison
from con360av_jax.base.codecs import FRAMES_AT_ONCE
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import latent_shapes, mel_frames


def cases(config: Config) -> list[comparison.Case]:
    """Eight video frames and one clip's log-mel, both ways."""
    random = np.random.default_rng(0)
    latents = latent_shapes(config)
    shapes = {
        "video": ((FRAMES_AT_ONCE, *latents["video"][1:]), (FRAMES_AT_ONCE, config.clip.height, config.clip.width, 3)),
        "audio": ((1, *latents["audio"]), (1, mel_frames(config), config.mel.bands, 1)),
    }
    found = []
    for name, (latent, full) in shapes.items():
        z, x = (random.standard_normal(shape, np.float32) for shape in (latent, full))
        size = " x ".join(map(str, full[:-1]))
        layout = {"to_theirs": channels_first, "from_theirs": lambda output: np.moveaxis(output, 1, -1)}
        found += [
            comparison.Case(
                name=f"decode {name}, {size}",
                component=f"vae_{name[0]}",
                inputs=(z,),
                ours=lambda vae, z: vae.decode(z),
                theirs=lambda vae, z: vae.decode(z).sample,
                **layout,
            ),
            comparison.Case(
                name=f"encode {name}, {size}",
                component=f"vae_{name[0]}",
                inputs=(x,),
                ours=lambda vae, x: vae.encode(x)[0],
                theirs=lambda vae, x: vae.encode(x).latent_dist.mean,
                **layout,
            ),
        ]
    return found


def channels_first(x: np.ndarray) -> tuple[np.ndarray]:
    """(batch, height, width, channel) to diffusers' channels-first layout."""
    return (np.moveaxis(x, -1, 1),)


if __name__ == "__main__":
    comparison.main(__doc__, cases)
