"""VAE, text encoders and vocoder equal the originals on random weights, layer names included."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from con360av_jax.config.settings import Config, TextConfig, VAEConfig, VocoderConfig
from con360av_jax.models import functional
from con360av_jax.models.text import ClapTextModel, ClipTextModel
from con360av_jax.models.vae import AutoencoderKL
from con360av_jax.models.vocoder import ConvTranspose1d, HiFiGAN
from convert.rules import Table, to_jax
from convert.tables.text import CLAP_TEXT, CLIP_TEXT
from convert.tables.vae import VAE
from convert.tables.vocoder import VOCODER
from tests.support.original_networks import arrays, randomise, torch

if TYPE_CHECKING:
    from torch import Tensor


def load(module: Callable[..., nnx.Module], config: object, original: Any, seed: int, table: Table) -> Any:
    """Our module with the original's random weights; every name and shape must match."""
    graphdef, wanted = functional.abstract(lambda rngs: module(config, rngs=rngs, dtype=jnp.float32))
    shapes = {path: leaf.shape for path, leaf in functional.flatten(wanted).items()}
    given = to_jax(arrays(randomise(original, seed=seed)), table, shapes)
    return functional.merge(graphdef, functional.unflatten({path: jnp.asarray(leaf) for path, leaf in given.items()}))


def difference(given: jax.Array, wanted: "Tensor") -> float:
    """Relative L2 error."""
    reference = wanted.detach().numpy()
    assert given.shape == reference.shape
    return float(np.linalg.norm(np.asarray(given) - reference) / np.linalg.norm(reference))


def channels_first(x: np.ndarray) -> "Tensor":
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


@pytest.mark.parametrize(
    ("config", "height", "width"),
    [
        (VAEConfig(widths=(8, 16, 24), in_channels=3, latent_channels=4, scaling_factor=0.2, norm_groups=4), 16, 24),
        (
            VAEConfig(widths=(8, 12), in_channels=1, latent_channels=8, scaling_factor=0.9, layers=1, norm_groups=4),
            10,
            8,
        ),
    ],
    ids=["frame", "mel"],
)
def test_vae_equals_diffusers(config: VAEConfig, height: int, width: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing diffusers warns about its own dependencies
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as Original

        original: Any = Original(
            in_channels=config.in_channels,
            out_channels=config.in_channels,
            down_block_types=cast(Any, ("DownEncoderBlock2D",) * len(config.widths)),
            up_block_types=cast(Any, ("UpDecoderBlock2D",) * len(config.widths)),
            block_out_channels=cast(Any, config.widths),
            layers_per_block=config.layers,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_groups,
            scaling_factor=config.scaling_factor,
        )
    vae = load(AutoencoderKL, config, original, 1, VAE)
    random = np.random.default_rng(2)
    x = random.standard_normal((2, height, width, config.in_channels)).astype(np.float32)
    z = random.standard_normal((2, height // config.factor, width // config.factor, config.latent_channels))
    z = z.astype(np.float32)
    encode, decode = jax.jit(vae.encode), jax.jit(vae.decode)
    with torch.no_grad():
        posterior = original.encode(channels_first(x)).latent_dist
        decoded = original.decode(channels_first(z)).sample
    mean, std = encode(jnp.asarray(x))
    assert difference(jnp.moveaxis(mean, -1, 1), posterior.mean) < 1e-5
    assert difference(jnp.moveaxis(std, -1, 1), posterior.std) < 1e-5
    assert difference(jnp.moveaxis(decode(jnp.asarray(z)), -1, 1), decoded) < 1e-5


def fresh(factory: Callable[[nnx.Rngs], nnx.Module]) -> Any:
    """Our module with its own random weights."""
    return functional.merge(functional.abstract(factory)[0], functional.init(factory, jax.random.key(0)))


def tokens_and_mask(config: TextConfig) -> tuple[np.ndarray, np.ndarray]:
    """Two captions, the second of them short and padded."""
    tokens = np.random.default_rng(3).integers(2, config.vocabulary, (2, config.tokens))
    tokens[1, config.tokens // 2 :] = config.pad_token
    return tokens, tokens != config.pad_token


@pytest.mark.parametrize("masked", [False, True])
def test_clip_text_equals_transformers(masked: bool):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = TextConfig(vocabulary=50, width=16, layers=2, heads=2, mlp_width=32, tokens=9, max_positions=12)
    original = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=12, hidden_act="quick_gelu", layer_norm_eps=config.norm_eps,
        )
    )  # fmt: skip
    clip = load(ClipTextModel, config, original, 4, CLIP_TEXT)
    tokens, mask = tokens_and_mask(config)
    with torch.no_grad():
        wanted = original(torch.from_numpy(tokens), torch.from_numpy(mask).long() if masked else None)
    given = jax.jit(clip)(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask) if masked else None)
    assert difference(given, wanted.last_hidden_state) < 1e-5


def clap_config() -> TextConfig:
    return TextConfig(
        vocabulary=50, width=16, layers=2, heads=2, mlp_width=32, tokens=10, projection=12, norm_eps=1e-12,
        activation="gelu", pad_token=1, max_positions=12,
    )  # fmt: skip


def test_clap_text_equals_transformers():
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    config = clap_config()
    original = ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=config.vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=12, hidden_act="gelu", layer_norm_eps=1e-12,
            type_vocab_size=1, projection_dim=12, projection_hidden_act="relu", pad_token_id=1,
        )
    )  # fmt: skip
    clap = load(ClapTextModel, config, original, 5, CLAP_TEXT)
    tokens, mask = tokens_and_mask(config)
    with torch.no_grad():
        embedding = original(torch.from_numpy(tokens), torch.from_numpy(mask).long()).text_embeds
    wanted = torch.nn.functional.normalize(embedding, dim=-1)
    assert difference(jax.jit(clap)(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)), wanted) < 1e-5


def test_clap_embedding_does_not_depend_on_padding_and_has_unit_length():
    config = clap_config()
    clap = jax.jit(fresh(lambda rngs: ClapTextModel(config, rngs=rngs, dtype=jnp.float32)))
    tokens, mask = (jnp.asarray(x[1:]) for x in tokens_and_mask(config))
    short = clap(tokens[:, :5], mask[:, :5])
    np.testing.assert_allclose(clap(tokens, mask), short, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(short, axis=-1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("normalize_before", [False, True])
def test_vocoder_equals_transformers(normalize_before: bool):
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = VocoderConfig(mel_bands=8, initial_width=32, normalize_before=normalize_before)
    original = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8, upsample_initial_channel=32, upsample_rates=list(config.upsample_rates),
            upsample_kernel_sizes=list(config.upsample_kernels), resblock_kernel_sizes=[3, 7, 11],
            resblock_dilation_sizes=[[1, 3, 5]] * 3, leaky_relu_slope=0.1, normalize_before=normalize_before,
        )
    )  # fmt: skip
    vocoder = load(HiFiGAN, config, original, 6, VOCODER)
    log_mel = np.random.default_rng(7).normal(-2, 2, (2, 12, 8)).astype(np.float32)
    with torch.no_grad():
        wanted = original(torch.from_numpy(log_mel))
    given = jax.jit(vocoder)(jnp.asarray(log_mel))
    assert given.shape == (2, 12 * 160)
    assert difference(given, wanted[:, : 12 * 160]) < 1e-5


@pytest.mark.parametrize(("size", "stride"), [(16, 5), (16, 4), (8, 2), (4, 2), (3, 3), (5, 1)])
def test_polyphase_equals_transposed_convolution(size: int, stride: int):
    layer = fresh(lambda rngs: ConvTranspose1d(3, 4, size, stride, rngs=rngs, dtype=jnp.float32))
    x = np.random.default_rng(8).standard_normal((2, 7, 3)).astype(np.float32)
    kernel = torch.from_numpy(np.asarray(layer.kernel[...]).transpose(1, 2, 0).copy())
    wanted = torch.nn.functional.conv_transpose1d(
        channels_first(x), kernel, stride=stride, padding=(size - stride) // 2
    )
    assert difference(jnp.moveaxis(jax.jit(layer)(jnp.asarray(x)), -1, 1), wanted) < 1e-6


def test_random_vocoder_neither_explodes_nor_dies(tiny: Config):
    config = tiny.model.vocoder
    mel = np.random.default_rng(2).normal(-5, 2, (1, 20, config.mel_bands)).astype(np.float32)
    sound = jax.jit(fresh(lambda rngs: HiFiGAN(config, rngs=rngs, dtype=jnp.float32)))(mel)
    assert 1e-3 < float(sound.std()) < 0.5
