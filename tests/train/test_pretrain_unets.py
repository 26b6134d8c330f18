"""Pretraining of the U-Nets and of the motion modules: what is trained and predicted, and the base that results."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.base.pretrained import Pretrained, open_pretrained
from con360av_jax.base.random import create_random
from con360av_jax.cli import main
from con360av_jax.config.files import save_config
from con360av_jax.config.pretraining import Part
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import latent_shapes, text_shapes
from con360av_jax.data.transforms import collate
from con360av_jax.denoiser import DenoiserInputs
from con360av_jax.errors import CheckpointError
from con360av_jax.models.functional import Params, flatten
from con360av_jax.models.joint import joint_model
from con360av_jax.scenes.sources import SceneStills
from con360av_jax.sharding import make_mesh
from con360av_jax.train.encode import caption_tokens
from con360av_jax.train.loop import on_mesh
from con360av_jax.train.metrics import read_lines
from con360av_jax.train.objectives.choose import make_objective
from con360av_jax.train.objectives.denoising import held_out_keys, unet_denoiser
from con360av_jax.train.optimizer import merge
from con360av_jax.train.pretrain import compiled_step, load_state, pretrain
from con360av_jax.train.pretraining_data import SceneData
from con360av_jax.train.pretraining_measures import EXAMPLES
from con360av_jax.train.trained_parts import open_trained
from tests.support import tiny_world
from tests.support.tiny_world import lean, leaves_equal, metrics, with_part, with_train

SCENES = SceneData(5)
UNETS: tuple[Part, ...] = ("unet_video", "motion", "unet_audio")


@pytest.fixture(scope="module", autouse=True)
def quick_compiles() -> Iterator[None]:
    with tiny_world.quick_compiles():
        yield


@pytest.fixture(scope="module")
def small(tiny: Config) -> Config:
    config = with_part(with_part(lean(tiny), "pretrain", validation_batches=2), "sampler", steps=2)
    config = with_train(config, trainable="all", batch_size=2, steps=4, checkpoint_every=2, loader_threads=0)
    return with_train(config, optimizer="muon", timesteps="logit_normal")


@pytest.fixture(scope="module")
def base(small: Config, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    folder = tmp_path_factory.mktemp("unets") / "base"
    return create_random(folder, small, seed=3)


@pytest.fixture(scope="module")
def whole(small: Config, base: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of the video U-Net of four steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain(small, "unet_video", base.folder, SCENES, out) is None
    return out


def batch_of(config: Config, part: Part, base: Pretrained) -> Any:
    rows, _ = SCENES.rows(make_objective(part, config), config, caption_tokens(base))
    return on_mesh(cast(Any, collate([rows(0), rows(1)])), make_mesh(config.mesh))


@pytest.mark.parametrize("part", UNETS)
def test_the_error_on_the_trained_batch_falls_and_the_rest_stays(part: Part, small: Config, base: Pretrained):
    config = with_train(small, learning_rate=1e-2, clip_norm=10.0, ema_decay=0.0)
    objective, mesh = make_objective(part, config), make_mesh(config.mesh)
    state, frozen = load_state(config, objective, base, mesh)
    batch, measure = batch_of(config, part, base), jax.jit(objective.measure)
    before = float(measure(merge(state.params, frozen), batch)[0]["error"])
    step = compiled_step(config, objective, mesh, state)
    for _ in range(20):
        state, _ = step(state, frozen, batch, jax.random.key(0))
    after = measure(merge(state.params, frozen), batch)[0]
    assert float(after["error"]) < 0.9 * before
    swapped = {**batch, "ids": batch["ids"][::-1], "mask": batch["mask"][::-1]}
    swapped_error = float(measure(merge(state.params, frozen), swapped)[0]["error"])
    assert float(after["other_error"]) == pytest.approx(swapped_error, rel=1e-5)
    # Bit for bit equal if captions were not read.
    assert swapped_error != float(after["error"])
    learnt = {path for path in flatten(state.params)}
    moving = {path for path in learnt if "/motion_modules/" in path}
    begins = {"unet_video": ("joint/unet/video/", "text_video/"), "motion": ("joint/unet/video/",)}
    assert all(path.startswith(begins.get(part, ("joint/unet/audio/", "text_audio/"))) for path in learnt)
    assert moving == (learnt if part == "motion" else set())


@pytest.mark.parametrize(("modality", "motion"), [("audio", True), ("video", True), ("video", False)])
def test_a_unet_alone_predicts_what_the_joint_model_predicts_of_one_modality(
    modality: str, motion: bool, small: Config, base: Pretrained
):
    shape = latent_shapes(small)[modality]
    if not motion:
        # One frame; fresh motion modules are the identity, so leaving them out changes nothing.
        shape = (1, *shape[1:])
    params = base.params("joint")
    if motion and modality == "video":
        # Motion modules that act.
        params = jax.tree.map(lambda leaf: leaf + 0.01, params)
    random = np.random.default_rng(0)
    inputs = DenoiserInputs(
        latents={modality: jnp.asarray(random.standard_normal((2, *shape)), jnp.float32)},
        timesteps={modality: jnp.array([10, 700])},
        text={modality: jnp.asarray(random.standard_normal((2, *text_shapes(small)[modality])), jnp.float32)},
        modalities=(modality,),
    )
    joint, _ = joint_model(small, "float32")
    wanted = joint(params, inputs)[modality]
    found = unet_denoiser(small, modality, motion)({"joint": params}, inputs)[modality]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("share", "least", "most"), [(0.5, 4, 12), (0.0, 16, 16), (1.0, 0, 0)])
def test_a_still_has_the_captions_of_its_view_and_its_scene(
    small: Config, base: Pretrained, share: float, least: int, most: int
):
    tokenise, stills = caption_tokens(base), SceneStills(5, 16, 16, 1.0)
    config = replace(small, pretrain=replace(small.pretrain, scene_captions=share))
    rows, _ = SCENES.rows(make_objective("unet_video", config), config, tokenise)
    kinds = []
    for number in range(16):
        # Four examples of each still, in consecutive batches of two.
        still, row = stills[number // 8 * 2 + number % 2], rows(number)
        ids = {name: tokenise(still[name])["video"]["ids"] for name in ("scene_caption", "view_caption")}
        kinds.append(next(name for name, wanted in ids.items() if np.array_equal(wanted, row["ids"])))
        np.testing.assert_array_equal(row["frames"], still["video"][0])
        np.testing.assert_array_equal(row["null_ids"], tokenise("")["video"]["ids"])
    assert least <= kinds.count("view_caption") <= most


def test_a_dropped_caption_is_the_empty_one(small: Config, base: Pretrained):
    objective = make_objective("unet_audio", with_train(small, text_dropout=1.0))
    batch, keys = batch_of(small, "unet_audio", base), jax.random.key_data(jax.random.split(jax.random.key(1), 2))
    state, frozen = load_state(small, objective, base, make_mesh(small.mesh))
    params = merge(state.params, frozen)
    silent = {**batch, "ids": batch["null_ids"], "mask": batch["null_mask"]}
    given, never = make_objective("unet_audio", with_train(small, text_dropout=0.0)), objective.loss
    assert float(never(params, batch, keys)[0]) == pytest.approx(float(given.loss(params, silent, keys)[0]), rel=1e-6)
    assert float(never(params, batch, keys)[0]) != pytest.approx(float(given.loss(params, batch, keys)[0]), rel=1e-6)


def test_held_out_rows_always_draw_the_same(small: Config):
    one, two = (held_out_keys({"sample_id": jnp.array(numbers)}) for numbers in ([3, 4], [4, 9]))
    np.testing.assert_array_equal(one[1], two[0])
    assert not np.array_equal(one[0], one[1])


def test_resume_equals_an_uninterrupted_run_and_samples_are_kept(
    small: Config, base: Pretrained, whole: Path, tmp_path: Path
):
    half = tmp_path / "run"
    pretrain(with_train(small, steps=2), "unet_video", base.folder, SCENES, half)
    pretrain(small, "unet_video", base.folder, SCENES, half, resume=True)
    assert metrics(half) == metrics(whole)
    assert metrics(half, "validation.jsonl") == metrics(whole, "validation.jsonl")
    assert read_lines(whole / "validation.jsonl")[-1]["loss"] > 0
    with np.load(whole / EXAMPLES) as shown, np.load(half / EXAMPLES) as again:
        assert shown["input_frames"].shape == shown["output_frames"].shape == (2, 16, 16, 3)
        np.testing.assert_array_equal(shown["output_frames"], again["output_frames"])


def test_unet_motion_and_text_come_together_in_a_base(small: Config, base: Pretrained, whole: Path, tmp_path: Path):
    config, first, moved, second = (tmp_path / name for name in ("small.json", "first", "moved", "second"))
    save_config(small, config)
    command = ["init", "--config", str(config), "--seed", "3", "--part", f"unet_video={whole}"]
    assert main([*command, "--out", str(first)]) == 0
    pretrain(with_train(small, steps=2), "motion", first, SCENES, moved)
    assert main([*command, "--part", f"motion={moved}", "--out", str(second)]) == 0
    stills, clips, fresh = open_pretrained(first), open_pretrained(second, verify=True), base
    image, motion = open_trained(whole, small).params, open_trained(moved, small).params
    joint = flatten(clips.params("joint"))
    for path, leaf in (flatten(image["joint"]) | flatten(motion["joint"])).items():
        np.testing.assert_array_equal(joint[path], leaf)
    assert leaves_equal(clips.params("text_video"), image["text_video"])
    assert leaves_equal(clips.params("text_audio"), fresh.params("text_audio"))
    projections = [path for path in joint if path.endswith("motion_modules/0/proj_out/kernel")]
    before = flatten(stills.params("joint"))
    assert projections and all(not np.any(before[path]) and np.any(joint[path]) for path in projections)
    assert [origin["part"] for origin in cast(list, clips.report["trained"])] == ["unet_video", "motion"]
    assert_rest_is(fresh.params("joint"), joint, {*flatten(image["joint"]), *flatten(motion["joint"])})


def assert_rest_is(wanted: Params, found: dict[str, Any], trained: set[str]) -> None:
    """Parameters outside `trained` are those of `wanted`."""
    rest = {path: leaf for path, leaf in flatten(wanted).items() if path not in trained}
    assert rest and len(rest) + len(trained) == len(found)
    for path, leaf in rest.items():
        np.testing.assert_array_equal(found[path], leaf)


def test_a_part_fits_bases_whose_other_networks_differ(small: Config, whole: Path):
    other = with_part(small, "model.vocoder", resblock_kernels=(5,))
    assert leaves_equal(open_trained(whole, other).params, open_trained(whole, small).params)
    with pytest.raises(CheckpointError, match=r"another config: model\.unet_video\.norm_groups"):
        open_trained(whole, with_part(small, "model.unet_video", norm_groups=4))
    with pytest.raises(CheckpointError, match=r"another config: model\.text\.video\.mlp_width"):
        open_trained(whole, with_part(small, "model.text.video", mlp_width=48))


def test_two_runs_of_one_part_are_refused(small: Config, whole: Path, tmp_path: Path, capsys):
    config = tmp_path / "small.json"
    save_config(replace(small, name="small"), config)
    twice = [option for _ in range(2) for option in ("--part", f"unet_video={whole}")]
    assert main(["init", "--config", str(config), "--out", str(tmp_path / "base"), *twice]) == 2
    assert "was given by an earlier --part" in capsys.readouterr().err
