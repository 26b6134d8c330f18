"""`verify` finds every part equal to its original, and names the one layer that is not."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from con360av_jax.base.parts import PARTS
from con360av_jax.base.pretrained import open_pretrained, write_pretrained
from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError, ConfigError
from con360av_jax.models import functional
from con360av_jax.models.functional import flatten, unflatten
from convert.export import export
from convert.torch_files.folders import Sources, baseline, component
from convert.torch_files.weights import cast_floating, open_weights, write_weights
from convert.verify import jax_networks, torch_networks
from convert.verify.compare import PartResult, passed, verify
from convert.verify.layers import Comparison
from convert.verify.report import environment, render, write_html, write_json
from tests.support.published_folders import animatediff_name, image_unet_json
from tests.support.random_weights import write_random_base

torch = pytest.importorskip("torch", reason="the originals are PyTorch models")


@pytest.fixture(scope="module")
def base(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained folder whose every parameter is random."""
    return write_random_base(tmp_path_factory.mktemp("random") / "base", tiny)


@pytest.fixture(scope="module")
def sources(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The same as the baseline's pipeline in PyTorch's layouts."""
    folder = tmp_path_factory.mktemp("torch") / "pipeline"
    export(base, folder)
    return baseline(folder)


@pytest.fixture(scope="module")
def results(base: Path, sources: Sources) -> list[PartResult]:
    return verify(sources, base, seed=1)


def test_every_part_equals_its_original(results: list[PartResult]):
    assert [result.part for result in results] == [*jax_networks.NETWORKS, "unet_svg"]
    for result in results[:-1]:
        assert result.passed, (result.part, result.error, result.diverging)
    assert passed(results)


def test_nearly_every_layer_is_compared(results: list[PartResult]):
    skipped = {f"{result.part}.{row.name}": row.note for result in results for row in result.layers if row.note}
    inside = "the original's ends in its activation"
    assert skipped == {
        "text_encoder_a.text_model.encoder.layer.0.intermediate": inside,
        "text_encoder_a.text_model.pooler": inside,
    }
    compared = {result.part: {row.name for row in result.layers} for result in results}
    video = {"down_blocks.0", "mid_block", "up_blocks.3.motion_modules.1", "up_blocks.1.attentions.0"}
    assert compared["unet_v"] >= video | {f"{name}.transformer_blocks.0.attn2.to_k" for name in video - {
        "down_blocks.0", "mid_block"}}  # fmt: skip
    assert compared["unet_a"] >= {"class_embedding", "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0"}
    assert compared["vocoder"] >= {"conv_pre", "upsampler.4", "resblocks.14", "conv_post"}


def test_the_last_frame_positions_count(tiny: Config, sources: Sources, tmp_path: Path):
    inputs = jax_networks.NETWORKS["unet_v"].inputs(tiny.model, np.random.default_rng(0))
    assert inputs["x"].shape[1] == tiny.model.unet_video.motion_max_frames == 32
    unet = sources.components["unet_v"]
    (name, *_) = (name for name in unet.weights if name.endswith(".pe"))
    stacked = np.concatenate([unet.weights[name][:, :16]] * 2, axis=1)

    def built(tensors: dict[str, np.ndarray], component_name: str) -> dict[str, Any]:
        write_weights(tmp_path / f"{component_name}.safetensors", tensors, {})
        changed = replace(unet, weights=open_weights(tmp_path / f"{component_name}.safetensors"))
        split = replace(sources, components={**sources.components, component_name: changed})
        return torch_networks.build("unet_v", "joint", split).state_dict()

    # The original runs with the table of its file, whose last half differs from ours.
    np.testing.assert_array_equal(built({**unet.weights, name: stacked}, "unet_v")[name].numpy(), stacked)
    # Names that the library doesn't have are compared with the formula.
    ids = {"text_model.embeddings.position_ids": np.arange(1, 78)[None]}
    clip = sources.components["text_encoder_v"]
    write_weights(tmp_path / "clip.safetensors", {**clip.weights, **ids}, {})
    clip = replace(clip, weights=open_weights(tmp_path / "clip.safetensors"))
    with pytest.raises(CheckpointError, match="position_ids differs in 77 of 77 values"):
        torch_networks.build(
            "text_encoder_v", "text_video", replace(sources, components={**sources.components, "text_encoder_v": clip})
        )


def test_networks_without_a_library_are_named_and_never_count(results: list[PartResult]):
    connectors = results[-1]
    assert connectors.passed is None
    assert "stored reference tensors" in connectors.original
    assert not passed([connectors])


@pytest.fixture(scope="module")
def damaged(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the base with one wrong number in a layer of the picture's VAE, and with CLIP in bfloat16."""
    folder, pretrained = tmp_path_factory.mktemp("damaged") / "base", open_pretrained(base)

    def parts() -> Iterator[tuple[str, functional.Params]]:
        for name in PARTS:
            flat = {key: np.array(leaf) for key, leaf in flatten(pretrained.params(name)).items()}
            if name == "vae_video":
                flat["decoder/mid_block/resnets/1/conv1/kernel"][0, 0, 0, 0] += 1.0
            elif name == "text_video":
                flat = {key: cast_floating(leaf, np.dtype(jnp.bfloat16)) for key, leaf in flat.items()}
            yield name, unflatten(flat)

    write_pretrained(folder, pretrained.config, parts(), pretrained.tokenizers, "damaged")
    return folder


def test_one_wrong_weight_is_found_and_its_layer_named(damaged: Path, sources: Sources, tmp_path: Path):
    (result,) = verify(sources, damaged, parts=("vae_v",))
    assert not passed([result])
    wrong = [row.name for row in result.layers if not (row.error or 0) <= result.layer_tolerance]
    # The layers behind it are given right inputs, so that it is the only one, and the encoder is not touched.
    assert wrong == ["decoder.mid_block.resnets.1.conv1"]
    assert result.diverging == wrong[0]
    errors = {row.name: row.error or 0 for row in result.outputs}
    assert max(errors["mean"], errors["std"]) <= result.tolerance < errors["decoded"]
    # A loose tolerance of the network's does not hide a layer, a number that is none is above every tolerance.
    assert replace(result, tolerance=10.0).passed is False
    nothing = (Comparison(name="noise", error=float("nan")),)
    assert replace(result, layers=(), outputs=nothing, tolerance=10.0).passed is False
    write_json([replace(result, outputs=nothing)], tmp_path / "verify.json", {"base": "<b>"})
    (part,) = (document := json.loads((tmp_path / "verify.json").read_text()))["parts"]
    assert (document["passed"], document["environment"]) == (False, {"base": "<b>"})
    assert (part["first_layer_that_diverges"], part["worst_layer"], part["passed"]) == (wrong[0], wrong[0], False)
    assert {row["name"]: row["error"] for row in part["layers"]} == {row.name: row.error for row in result.layers}
    assert part["outputs"] == [{"name": "noise", "error": "nan", "note": ""}]
    write_html([result], tmp_path / "page.html", {"base": "<b>"})
    page = (tmp_path / "page.html").read_text()
    assert f'<td class="number differs">{result.layer_error:.1e}</td>' in page
    assert f"<code>{wrong[0]}</code>" in page
    assert "&lt;b&gt;" in page


def test_rounded_weights_are_said_to_be_and_get_their_own_tolerance(damaged: Path, sources: Sources):
    (result,) = verify(sources, damaged, parts=("text_encoder_v",))
    assert result.passed
    assert (result.tolerance, result.layer_tolerance) == (2e-2, 2e-2)
    assert result.notes == ("weights were rounded to bfloat16, compared in float32",)
    assert result.error is not None
    assert result.error > 1e-4
    (strict,) = verify(sources, damaged, parts=("text_encoder_v",), tolerance=1e-4)
    assert strict.passed is False


def test_published_parts_are_put_together_by_the_library(base: Path, sources: Sources, tmp_path: Path):
    """Stable Diffusion's U-Net and AnimateDiff's own file, whose names only the tables know."""
    unet = sources.components["unet_v"]
    motion = {name: tensor for name, tensor in unet.weights.items() if "motion_modules" in name}
    torch.save({f"module.{animatediff_name(name)}": torch.from_numpy(x.copy()) for name, x in motion.items()},
               tmp_path / "mm.ckpt")  # fmt: skip
    video = open_pretrained(base).config.model.unet_video
    (tmp_path / "unet").mkdir()
    image = {name: tensor for name, tensor in unet.weights.items() if name not in motion}
    write_weights(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", image, {})
    (tmp_path / "unet" / "config.json").write_text(json.dumps(image_unet_json(video)))
    parts = {"unet_v": component(tmp_path / "unet"), "motion": component(tmp_path / "mm.ckpt")}
    split = replace(sources, components={**sources.components, **parts})
    model: Any = torch_networks.build("unet_v", "joint", split)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert state.keys() == set(unet.weights)
    for name, tensor in unet.weights.items():
        np.testing.assert_array_equal(state[name], tensor, err_msg=name)
    # Heads are in no file: AnimateDiff's published eight, here not those of the base.
    assert model.config.motion_num_attention_heads == 8
    with pytest.raises(CheckpointError, match=r"not made from these sources, its networks differ \(unet_video\)"):
        verify(split, base, parts=("unet_v",))


def test_old_names_of_an_autoencoder_are_understood(sources: Sources, tmp_path: Path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = sources.components["vae_v"]

    def renamed(name: str) -> str:
        for new, before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        return name

    tensors = {renamed(name): tensor for name, tensor in vae.weights.items()}
    write_weights(tmp_path / "vae.safetensors", tensors, {})
    components = {**sources.components, "vae_v": replace(vae, weights=open_weights(tmp_path / "vae.safetensors"))}
    state = torch_networks.build("vae_v", "vae_video", replace(sources, components=components)).state_dict()
    for name, tensor in vae.weights.items():
        np.testing.assert_array_equal(state[name].numpy(), tensor, err_msg=name)
    tensors.pop("decoder.conv_in.bias")
    write_weights(tmp_path / "less.safetensors", tensors, {})
    components["vae_v"] = replace(vae, weights=open_weights(tmp_path / "less.safetensors"))
    with pytest.raises(CheckpointError, match=r"decoder.conv_in.bias: no tensor for it"):
        torch_networks.build("vae_v", "vae_video", replace(sources, components=components))


def test_an_error_leaves_the_layers_as_they_were(tiny: Config):
    vocoder: Any = jax_networks.NETWORKS["vocoder"].make(tiny, nnx.Rngs(0))
    before = nnx.Conv.__call__

    def refuse(path: str, output: object, options: object) -> None:
        raise CheckpointError(path)

    with pytest.raises(CheckpointError, match="conv_pre"), jax_networks.watched(vocoder, refuse):
        vocoder(jnp.zeros((1, 2, 32)))
    assert nnx.Conv.__call__ is before


def test_the_table_and_the_page_hold_the_numbers(
    results: list[PartResult], base: Path, sources: Sources, tmp_path: Path
):
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(render(results))
    table = console.export_text()
    write_html(results, tmp_path / "page.html", environment(sources, base))
    page = (tmp_path / "page.html").read_text()
    for result in results[:-1]:
        for text in (table, page):
            assert f"{result.error:.1e}" in text
            assert f"{result.converted_seconds:.3f}" in text
            assert result.original in text
    assert table.count("equal") == len(results) - 1
    assert "not compared" in table
    assert all(row.name in page for result in results for row in result.layers)
    assert f"torch</td><td><code>{version('torch')}" in page
    assert "noise" in page
    assert "src=" not in page
    assert "href=" not in page


def test_an_unknown_part_is_refused(base: Path, sources: Sources):
    with pytest.raises(ConfigError, match="part 'unet' given, but there are unet_a, unet_v"):
        verify(sources, base, parts=("unet",))
