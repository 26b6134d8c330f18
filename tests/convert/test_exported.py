"""An exported model of config small in PyTorch: the libraries load every network, and see the same video as JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

import con360av_jax as c3
import con360av_jax.cli
import convert.cli
from con360av_jax.base.networks import compiled_vae
from con360av_jax.config.files import load_config
from con360av_jax.config.shapes import latent_shapes
from tests.support.random_weights import write_random_base

torch = pytest.importorskip("torch", reason="the originals are PyTorch models")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiles", "one_thread")]

NETWORKS = (
    ("diffusers", "UNet2DConditionModel", "unet_a"),
    ("diffusers", "UNetMotionModel", "unet_v"),
    ("diffusers", "AutoencoderKL", "vae_a"),
    ("diffusers", "AutoencoderKL", "vae_v"),
    ("transformers", "ClapTextModelWithProjection", "text_encoder_a"),
    ("transformers", "CLIPTextModel", "text_encoder_v"),
    ("transformers", "SpeechT5HifiGan", "vocoder"),
)
# Of values around 1, in float32.
CLOSE = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> c3.Con360AV:
    """A model of config small with random weights, opened from its export."""
    folder = tmp_path_factory.mktemp("small")
    base = write_random_base(folder / "base", load_config("small"))
    assert con360av_jax.cli.main(["export", str(base), "--out", str(folder / "exported")]) == 0
    return c3.load(folder / "exported")


@pytest.fixture(scope="module")
def networks(model: c3.Con360AV, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same in the libraries, from the folders of `python -m convert export`."""
    folder = tmp_path_factory.mktemp("torch") / "pipeline"
    assert convert.cli.main(["export", str(model.codecs.pretrained.folder), "--out", str(folder)]) == 0
    opened: dict[str, Any] = {}
    for library, kind, name in NETWORKS:
        found, notes = getattr(pytest.importorskip(library), kind).from_pretrained(
            folder / name, output_loading_info=True
        )
        assert not notes["missing_keys"] and not notes["unexpected_keys"], name
        opened[name] = found.eval()
    return opened


def test_the_text_encoder_knows_the_first_and_last_token_of_its_tokenizer(model: c3.Con360AV, networks: dict[str, Any]):
    tokenizer, config = model.codecs.pretrained.tokenizers["video"], networks["text_encoder_v"].config
    assert (config.bos_token_id, config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_video_unet_predicts_the_same_noise(model: c3.Con360AV, networks: dict[str, Any]):
    frames, height, width, channels = latent_shapes(model.config)["video"]
    assert (frames, height, width, channels) == (8, 16, 16, 6)
    x, steps = normal(0, 2, frames, height, width, channels), np.array([17, 903], np.int32)
    text = jax.device_get(model.encode_text(["a bell rings", "a red drum"]))["video"]
    found = model.denoise(
        {"video": jnp.asarray(x)}, {"video": jnp.asarray(steps)}, {"video": jnp.asarray(text)}, modalities=("video",)
    )["video"]
    with torch.no_grad():
        wanted = networks["unet_v"](
            torch.from_numpy(rearrange(x, "b f h w c -> b c f h w")),
            torch.from_numpy(steps),
            # AnimateDiff's pipeline repeats the text for every frame.
            encoder_hidden_states=torch.from_numpy(text.repeat(frames, axis=0)),
        ).sample
    wanted = rearrange(wanted.numpy(), "b c f h w -> b f h w c")
    assert wanted.std() > 0.3
    np.testing.assert_allclose(found, wanted, atol=CLOSE)


def test_the_video_vae_has_the_same_latents_and_decodes_the_same_frames(model: c3.Con360AV, networks: dict[str, Any]):
    encode, decode = compiled_vae("vae_video", model.config.model)
    params = model.codecs.pretrained.params("vae_video")
    x, z = normal(1, 8, 64, 64, 3), normal(2, 8, 16, 16, 6)
    mean, std = encode(params, jnp.asarray(x))
    frames = decode(params, jnp.asarray(z))
    with torch.no_grad():
        latent = networks["vae_v"].encode(torch.from_numpy(rearrange(x, "b h w c -> b c h w"))).latent_dist
        decoded = networks["vae_v"].decode(torch.from_numpy(rearrange(z, "b h w c -> b c h w"))).sample
    for found, wanted in ((mean, latent.mean), (std, latent.std), (frames, decoded)):
        wanted = rearrange(wanted.numpy(), "b c h w -> b h w c")
        assert wanted.std() > 0.1
        np.testing.assert_allclose(found, wanted, atol=CLOSE)
