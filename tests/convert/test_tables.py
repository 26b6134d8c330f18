"""The tables against the original libraries: every tensor has its place, and comes back the same; the outputs agree."""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.errors import CheckpointError
from con360av_jax.models import functional
from con360av_jax.models.motion import frame_positions
from con360av_jax.models.unet import UNet
from convert.config_json import to_settings
from convert.rules import Rule, Table, place, to_jax, to_torch, under
from convert.tables import motion, text
from convert.tables.joint import UNET
from convert.tables.motion import ANIMATEDIFF, MOTION_ADAPTER
from convert.tables.text import CLIP_TEXT
from convert.tables.vae import VAE
from convert.tables.vocoder import VOCODER
from tests.support.original_networks import (
    ADAPTER,
    AUDIO_VAE,
    CLAP,
    CLIP,
    HIFIGAN,
    IMAGE_UNET,
    IMAGE_VAE,
    Json,
    arrays,
    audio_unet,
    motion_unet,
    original,
    part,
    randomise,
    saved,
    torch,
    wanted,
)

NETWORK = 1e-4
# An eps far from every default: one that is not read cannot pass.
AUDIO_UNET = audio_unet(
    8, 16, 24, 16, norm_num_groups=4, layers_per_block=[1, 2, 1, 1], attention_head_dim=[2, 4, 3, 2],
    projection_class_embeddings_input_dim=6, norm_eps=1e-3,
)  # fmt: skip
VIDEO_UNET = motion_unet(
    block_out_channels=[8, 16, 24, 16], norm_num_groups=4, layers_per_block=1, num_attention_heads=[4, 2, 3, 8],
    cross_attention_dim=6, motion_num_attention_heads=2, motion_max_seq_length=5, norm_eps=1e-3,
)  # fmt: skip
WORDS = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
         "max_position_embeddings": 12, "projection_dim": 6, "bos_token_id": 0, "eos_token_id": 2}  # fmt: skip
TINY: dict[str, Json] = {
    "audio U-Net": AUDIO_UNET,
    "audio U-Net, attention everywhere, dense projections": {
        **AUDIO_UNET, "layers_per_block": 1, "attention_head_dim": 4, "block_out_channels": [8] * 4,
        "cross_attention_dim": [8] * 4, "down_block_types": ["CrossAttnDownBlock2D"] * 4,
        "up_block_types": ["CrossAttnUpBlock2D"] * 4, "use_linear_projection": True,
    },
    "video U-Net": VIDEO_UNET,
    "video U-Net without motion in the middle": {
        **VIDEO_UNET, "use_motion_mid_block": False, "layers_per_block": [1, 2, 1, 1], "motion_num_attention_heads": 4
    },
    "video VAE": {**IMAGE_VAE, "block_out_channels": [8, 16, 16, 24], "norm_num_groups": 4},
    "audio VAE": {**AUDIO_VAE, "block_out_channels": [8, 16, 12], "norm_num_groups": 2, "layers_per_block": 1},
    "CLIP": {**CLIP, **WORDS},
    "deeper CLIP": {**CLIP, **WORDS, "num_hidden_layers": 11, "num_attention_heads": 4, "hidden_act": "gelu"},
    "CLAP": {**CLAP, **WORDS},
    "deeper CLAP": {**CLAP, **WORDS, "num_hidden_layers": 11, "num_attention_heads": 8},
    "vocoder": {**HIFIGAN, "model_in_dim": 8, "upsample_initial_channel": 32},
    "vocoder of other rates": {
        **HIFIGAN, "model_in_dim": 4, "upsample_initial_channel": 16, "upsample_rates": [4, 3],
        "upsample_kernel_sizes": [8, 7], "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 2]] * 2,
    },
}  # fmt: skip


def assert_same_tensors(found: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray]):
    assert found.keys() == source.keys()
    for name, tensor in source.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].tobytes() == tensor.tobytes(), name


def shapes(tensors: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


@pytest.mark.parametrize("config", TINY.values(), ids=TINY)
def test_every_tensor_of_a_saved_original_has_its_place_and_comes_back_the_same(config: Json, tmp_path: Path):
    model = original(config)
    randomise(model, seed=1)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        written, source = saved(deepcopy(model).to(dtype), tmp_path / str(dtype))
        table = part(written).table
        params = to_jax(source, table, wanted(written))
        assert params.keys() == wanted(written).keys()
        back = to_torch(params, table, shapes(source))
        computed = {name: skipped(name, source[name]) for name in source if name not in back}
        assert_same_tensors(back | computed, source)


def skipped(name: str, tensor: np.ndarray) -> np.ndarray:
    """Tensors that the tables compute instead of reading them."""
    if not name.endswith(".pe"):
        return text.skipped(name, tensor.shape)
    return np.asarray(jnp.asarray(motion.skipped(tensor.shape)).astype(tensor.dtype))


def adapter_config(unet: Json) -> Json:
    return {
        **ADAPTER,
        "block_out_channels": unet["block_out_channels"],
        "motion_layers_per_block": unet["layers_per_block"],
        "motion_norm_num_groups": unet["norm_num_groups"],
        "motion_num_attention_heads": 2,
        "motion_max_seq_length": 5,
    }


@pytest.fixture(scope="module")
def adapted() -> dict[str, Any]:
    """An image U-Net, an adapter, and the U-Net that diffusers makes of the two, with what is wanted of ours."""
    config = {**IMAGE_UNET, "block_out_channels": [8, 16, 24, 16], "norm_num_groups": 4, "cross_attention_dim": 6,
              "layers_per_block": 1, "attention_head_dim": 2}  # fmt: skip
    unet, adapter = original(config), original(adapter_config(config))
    sources = {"unet_v": arrays(randomise(unet, seed=2)), "motion": arrays(randomise(adapter, seed=3))}
    whole = type(original(VIDEO_UNET)).from_unet2d(unet, adapter)
    ours = to_settings.video_unet(dict(unet.config), dict(adapter.config))
    _, params = functional.abstract(lambda rngs: UNet(ours, rngs=rngs, dtype=jnp.float32))
    paths = {f"unet/video/{path}": leaf.shape for path, leaf in functional.flatten(params).items()}
    table = tuple(under("unet_v", "unet.video", UNET))
    joined = to_jax(arrays(whole.state_dict()), tuple(_rooted(UNET)), paths)
    return {"sources": sources, "paths": paths, "table": table, "joined": joined, "ours": ours, "whole": whole}


def _rooted(table: Table) -> list[Any]:
    return [Rule(e.pattern, f"unet.video.{e.target}", e.layout) if isinstance(e, Rule) else e for e in table]


def both(unet: dict[str, np.ndarray], modules: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"unet_v.{name}": tensor for name, tensor in unet.items()} | {
        f"motion.{name}": tensor for name, tensor in modules.items()
    }


def test_an_adapter_joins_the_image_unet_as_in_diffusers(adapted: dict[str, Any]):
    assert adapted["ours"] == to_settings.video_unet(dict(adapted["whole"].config), None)
    table = (*adapted["table"], *under("motion", "", MOTION_ADAPTER))
    found = to_jax(both(*adapted["sources"].values()), table, adapted["paths"])
    assert_same_tensors(found, adapted["joined"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_animatediffs_own_names_are_read_as_diffusers_reads_them(adapted: dict[str, Any], prefix: str):
    from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers

    adapter = adapted["sources"]["motion"]
    own = {_animatediff_name(name): tensor for name, tensor in adapter.items()}
    renamed = convert_animatediff_checkpoint_to_diffusers(own)
    assert renamed.keys() == {name for name in adapter if not name.endswith(".pe")}
    assert all(renamed[name] is adapter[name] for name in renamed)
    own = {f"{prefix}{name}": tensor for name, tensor in own.items()}
    table = (*adapted["table"], *under("motion", "", ANIMATEDIFF))
    source = both(adapted["sources"]["unet_v"], own)
    found = to_jax(source, table, adapted["paths"])
    assert_same_tensors(found, adapted["joined"])
    # The image U-Net's tensors and the modules' come back under their own names; encodings are computed.
    back = to_torch(found, table, shapes(source))
    computed = {name: motion.skipped(source[name].shape) for name in source if name not in back}
    assert_same_tensors(back | computed, source)


def _animatediff_name(name: str) -> str:
    """diffusers' name -> AnimateDiff's, which has one positional encoding in each attention."""
    place, _, rest = name.partition("motion_modules.")
    number, _, rest = rest.partition(".")
    for ours, theirs in (
        ("norm1", "norms.0"), ("norm2", "norms.1"), ("norm3", "ff_norm"), ("attn1", "attention_blocks.0"),
        ("attn2", "attention_blocks.1"), ("pos_embed", "attention_blocks.0.pos_encoder"),
    ):  # fmt: skip
        rest = rest.replace(f".0.{ours}.", f".0.{theirs}.")
    return f"{place}motion_modules.{number}.temporal_transformer.{rest}"


def test_computed_encoding_is_the_one_that_the_model_adds():
    stored = motion.skipped((1, 32, 320))
    np.testing.assert_allclose(stored[0], frame_positions(32, 320), atol=3e-6)


@pytest.mark.parametrize("axes", [0, 2], ids=["dense", "1x1 convolution"])
def test_old_attention_names_of_a_vae_go_where_the_new_ones_go(axes: int):
    config = TINY["audio VAE"]
    source = arrays(randomise(original(config), seed=4))
    old = {}
    for name, tensor in source.items():
        for new, former in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f".{new}." in name:
                name = name.replace(new, former)
                tensor = tensor.reshape(tensor.shape + (1,) * axes) if tensor.ndim == 2 else tensor
        old[name] = tensor
    assert len(old.keys() - source.keys()) == 16
    params = to_jax(old, VAE, wanted(config))
    assert_same_tensors(params, to_jax(source, VAE, wanted(config)))
    assert_same_tensors(to_torch(params, VAE, shapes(old)), old)


def test_published_clip_names_begin_with_text_model_and_have_positions():
    config = TINY["CLIP"]
    source = arrays(randomise(original(config), seed=5))
    old = {f"text_model.{name}": tensor for name, tensor in source.items()}
    old["text_model.embeddings.position_ids"] = text.skipped("position_ids", (1, 12))
    params = to_jax(old, CLIP_TEXT, wanted(config))
    assert_same_tensors(params, to_jax(source, CLIP_TEXT, wanted(config)))


def test_the_table_itself_knows_no_weight_normalisation():
    model = original(TINY["vocoder"])
    model.apply_weight_norm()
    with pytest.raises(CheckpointError, match=r"conv_pre\.parametrizations\.weight\.original0: no entry applies"):
        to_jax(arrays(model.state_dict()), VOCODER, wanted(TINY["vocoder"]))


def test_no_table_takes_the_same_path_twice_or_a_stranger():
    for config in TINY.values():
        assert place(["stranger.weight"], part(config).table)[1] == ["stranger.weight: no entry applies"]
    for table in (MOTION_ADAPTER, ANIMATEDIFF):
        assert place(["conv_in.weight"], table)[1] == ["conv_in.weight: no entry applies"]


def unet_output(config: Json, source: dict[str, np.ndarray], *inputs: np.ndarray) -> np.ndarray:
    """Our U-Net with the weights of an original."""
    own = part(config)
    graphdef, _ = functional.abstract(own.factory(own.read(config)))
    params = functional.unflatten(to_jax(source, own.table, wanted(config)))
    run = jax.jit(partial(functional.apply, graphdef), compiler_options={"xla_backend_optimization_level": 0})
    return np.asarray(run(params, *map(jnp.asarray, inputs)))


def error(found: np.ndarray, reference: np.ndarray) -> float:
    """Relative L2 error."""
    assert found.shape == reference.shape
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def test_audio_unet_equals_diffusers():
    random, model = np.random.default_rng(6), original(AUDIO_UNET)
    source = arrays(randomise(model, seed=6))
    x, label = (random.standard_normal(shape).astype(np.float32) for shape in ((2, 8, 24, 8), (2, 6)))
    timesteps = np.asarray([37, 901], np.int32)
    with torch.no_grad():
        reference = model(*map(torch.from_numpy, (x, timesteps)), None, class_labels=torch.from_numpy(label)).sample
    found = unet_output(AUDIO_UNET, source, np.moveaxis(x, 1, -1)[:, None], timesteps, label)
    assert error(np.moveaxis(found[:, 0], -1, 1), reference.numpy()) <= NETWORK


def test_video_unet_with_motion_equals_diffusers():
    random, model, frames = np.random.default_rng(7), original(VIDEO_UNET), 3
    source = arrays(randomise(model, seed=7))
    x, words = (random.standard_normal(shape).astype(np.float32) for shape in ((2, 4, frames, 8, 16), (2, 5, 6)))
    timesteps = np.asarray([37, 901], np.int32)
    context = torch.from_numpy(words).repeat_interleave(frames, 0)
    with torch.no_grad():
        reference = model(*map(torch.from_numpy, (x, timesteps)), context).sample
    found = unet_output(VIDEO_UNET, source, np.moveaxis(x, 1, -1), timesteps, words)
    assert error(np.moveaxis(found, -1, 1), reference.numpy()) <= NETWORK
