"""Pretraining: losses fall, resuming changes nothing, a step compiles once, trained parts come together in a base."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest

from con360av_jax.base.codecs import Codecs
from con360av_jax.base.pretrained import open_pretrained
from con360av_jax.base.random import create_random
from con360av_jax.cli import main
from con360av_jax.config.files import save_config
from con360av_jax.config.pretraining import Part
from con360av_jax.config.settings import Config
from con360av_jax.data.fake import fake_sample
from con360av_jax.data.transforms import collate
from con360av_jax.errors import CheckpointError, ConfigError, DatasetError
from con360av_jax.scenes.sources import SceneAudio, SceneStills
from con360av_jax.sharding import make_mesh
from con360av_jax.train import run_folder
from con360av_jax.train.loop import on_mesh, restore_state
from con360av_jax.train.metrics import read_lines
from con360av_jax.train.objectives.choose import make_objective
from con360av_jax.train.objectives.objective import AUDIO_EXCERPTS
from con360av_jax.train.pretrain import compiled_step, load_state, make_objective_step, pretrain
from con360av_jax.train.pretraining_data import RecordData, SceneData
from con360av_jax.train.pretraining_measures import EXAMPLES
from con360av_jax.train.trained_parts import open_trained
from tests.support import tiny_world
from tests.support.tiny_world import assert_same, leaves_equal, metrics, with_part, with_train

COMPILED = "/jax/core/compile/backend_compile_duration"
SCENES = SceneData(5)


@pytest.fixture(scope="module", autouse=True)
def quick_compiles() -> Iterator[None]:
    with tiny_world.quick_compiles():
        yield


@pytest.fixture(scope="module")
def small(tiny: Config) -> Config:
    """`tiny` with excerpts that fit it and a vocoder that compiles soon."""
    config = with_part(tiny, "pretrain.vae_video", crop=8)
    config = with_part(config, "pretrain", validation_batches=2)
    config = with_part(config, "pretrain.judge_video", widths=(8, 16), size=16)
    config = with_part(config, "pretrain.judge_audio", widths=(8, 8, 8, 8), features=16)
    config = with_part(config, "model.vocoder", resblock_kernels=(3,), resblock_dilations=(1,))
    return with_train(
        config, trainable="all", batch_size=2, steps=4, checkpoint_every=2, keep_checkpoints=5, loader_threads=0
    )


@pytest.fixture(scope="module")
def base(small: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain") / "base"
    create_random(folder, small, seed=3)
    return folder


@pytest.fixture(scope="module")
def whole(small: Config, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of four steps on scenes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain(small, "vae_video", base, SCENES, out) is None
    return out


def scene_arrays(part: Part, config: Config) -> Any:
    """A record, or for judges a scene with its truth."""
    if part == "judge_video":
        return next(view for number in range(8) if (view := SceneStills(5, 16, 16, 1.0)[number])["seen"])
    return SceneAudio(config.mel, 5, 1.0)[0] if part == "judge_audio" else fake_sample(config, 0).arrays


@pytest.mark.parametrize("part", ["vae_video", "vae_audio", "vocoder", "judge_video", "judge_audio"])
def test_the_loss_falls_on_a_fixed_batch_and_a_step_compiles_once(part: Part, small: Config, base: Path):
    config = with_train(small, learning_rate=3e-3, clip_norm=10.0)
    objective, mesh = make_objective(part, config), make_mesh(config.mesh)
    arrays, random = scene_arrays(part, config), np.random.default_rng(0)
    row = {**objective.example(arrays, random), "sample_id": np.int64(0)}
    state, frozen = load_state(config, objective, open_pretrained(base), mesh)
    step, compiled, losses = compiled_step(config, objective, mesh, state), [], []

    def heard(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILED and kwargs.get("fun_name") == "jit(step)":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        for _ in range(12):
            state, found = step(state, frozen, on_mesh(cast(Any, collate([row, row])), mesh), jax.random.key(0))
            losses.append(float(found["loss"]))
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    assert losses[-1] < 0.9 * losses[0], losses
    assert len(compiled) == 1
    assert set(state.params) == set(objective.trains) and set(frozen) == set(objective.reads)


def test_a_batch_in_parts_gives_the_update_of_the_whole(small: Config, base: Path):
    objective, mesh = make_objective("vae_audio", small), make_mesh(small.mesh)
    state, frozen = load_state(small, objective, open_pretrained(base), mesh)
    arrays = fake_sample(small, 0).arrays
    rows = [{**objective.example(arrays, np.random.default_rng(row)), "sample_id": np.int64(row)} for row in range(2)]
    batch = on_mesh(cast(Any, collate(rows)), mesh)
    steps = [jax.jit(make_objective_step(objective, with_train(small, accumulate=parts))) for parts in (1, 2)]
    found = [step(state, frozen, batch, jax.random.key(0))[1] for step in steps]
    # Float32 sums in another order.
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), *found)


def test_resume_equals_an_uninterrupted_run(small: Config, base: Path, whole: Path, tmp_path: Path):
    half = tmp_path / "run"
    pretrain(with_train(small, steps=2), "vae_video", base, SCENES, half)
    pretrain(small, "vae_video", base, SCENES, half, resume=True)
    assert metrics(half) == metrics(whole)
    assert metrics(half, "validation.jsonl") == metrics(whole, "validation.jsonl")
    start, _ = load_state(small, make_objective("vae_video", small), open_pretrained(base), make_mesh(small.mesh))
    states, progress = zip(*(restore_state(start, run / "checkpoints" / "4") for run in (half, whole)), strict=True)
    assert leaves_equal(*states)
    assert progress[0] == progress[1]


def test_held_out_scenes_are_measured_at_every_checkpoint(small: Config, whole: Path):
    lines = read_lines(whole / "validation.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert line["psnr"] == pytest.approx(10 * np.log10(4 / line["loss"]))
        assert {"object_psnr", "latent_std", "weights"} <= line.keys()
    with np.load(whole / EXAMPLES) as shown:
        assert shown["input_frames"].shape == shown["output_frames"].shape == (4, 16, 16, 3)
        wanted = SCENES.held_out(make_objective("vae_video", small), small)[0]
        np.testing.assert_array_equal(shown["input_frames"][3], wanted(3)["frames"])


def test_recordings_serve_as_well_as_scenes(small: Config, base: Path, tiny: Config, tmp_path: Path):
    records = tiny_world.dataset(tiny)
    run = tmp_path / "run"
    pretrain(with_train(small, steps=2), "vae_audio", base, RecordData(records, records), run)
    assert [line["step"] for line in read_lines(run / "validation.jsonl")] == [2]
    assert run_folder.open_pretraining(run).data["dataset"] == str(records.resolve())
    other, objective = with_part(small, "clip", map_height=8, map_width=16), make_objective("vae_audio", small)
    with pytest.raises(DatasetError, match="does not fit config"):
        RecordData(records).rows(objective, other)
    with pytest.raises(DatasetError, match="lacks depth; preprocess with --keep-raw"):
        RecordData(records).rows(replace(objective, fields=("mel", "depth")), small)


def test_the_audio_of_a_scene_gives_excerpts_in_consecutive_batches(small: Config):
    objective = make_objective("vocoder", small)
    rows, _ = SCENES.rows(objective, small)
    audio = SceneAudio(small.mel, 5, 1.0)
    places = []
    for number in range(2 * AUDIO_EXCERPTS + 2):
        whole, found = audio[number % 2 + 2 * (number // (2 * AUDIO_EXCERPTS))], rows(number)
        start = next(t for t in range(61) if np.array_equal(whole["mel"][t : t + 40], found["mel"]))
        # An excerpt's audio is that of its mel frames.
        np.testing.assert_array_equal(found["sound"], whole["sound"][160 * start : 160 * (start + 40)])
        places.append(start)
    assert len(set(places)) > AUDIO_EXCERPTS


def test_a_run_of_another_part_other_data_or_another_kind_is_refused(small: Config, base: Path, whole: Path):
    for part, data, settings, said in (
        ("vocoder", SCENES, small, "pretrains vae_video, not vocoder"),
        ("vae_video", SceneData(6), small, "was trained on other data"),
        ("vae_video", SCENES, with_train(small, learning_rate=5.0), "train.learning_rate"),
        ("vae_video", SCENES, with_part(small, "pretrain.vae_video", kl_weight=1.0), "kl_weight"),
    ):
        with pytest.raises(CheckpointError, match=said):
            pretrain(settings, cast(Part, part), base, data, whole, resume=True)
    with pytest.raises(CheckpointError, match="already exists"):
        pretrain(small, "vae_video", base, SCENES, whole)
    with pytest.raises(CheckpointError, match=r"is a run of con360av pretrain vae_video.*--part vae_video="):
        run_folder.open_run(whole)


def test_a_trained_part_takes_its_place_in_a_base_with_its_scaling_factor_and_origin(
    small: Config, base: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config, out = tmp_path / "small.json", tmp_path / "base"
    save_config(small, config)
    command = ["init", "--config", str(config), "--out", str(out)]
    assert main([*command, "--seed", "3", "--part", f"vae_video={whole}"]) == 0
    made, before = open_pretrained(out, verify=True), open_pretrained(base)
    ema = open_trained(whole / "checkpoints" / "4", small)
    assert_same(made.params("vae_video"), ema.params["vae_video"])
    assert_same(made.params("vocoder"), before.params("vocoder"))
    # Latents that carry the factor have unit variance.
    factor = made.config.model.vae.video.scaling_factor
    assert replace(made.config, model=small.model) == small
    scenes = [SceneStills(5, 16, 16, 1.0)[number]["video"][0] for number in range(64)]
    mean, std = Codecs(made).encode_video(np.stack(scenes))
    assert np.sqrt((mean**2 + std**2).mean() - mean.mean() ** 2) == pytest.approx(1, rel=1e-3)
    assert made.report["origin"] == "random weights, seed 3, vae_video pretrained"
    (origin,) = cast(list, made.report["trained"])
    assert origin == {**ema.origin, "scaling_factor_video": factor}
    assert {"part": "vae_video", "step": 4, "data": {"scenes": 5, "version": 2}}.items() <= origin.items()
    # The next part is trained on that base; its measured factor is not in the config.
    objective = make_objective("vocoder", small)
    load_state(made.config, objective, made, make_mesh(small.mesh))
    run_folder.require_same_networks(small, made.config, "base")
    for given, said in ((f"vocoder={whole}", "that run trained vae_video"), ("vae_video", "such as vae_video=RUN")):
        assert main(["init", "--config", str(config), "--out", str(tmp_path / "2"), "--part", given]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "path", "changes", "said"),
    [
        ("vae_video", "pretrain.vae_video", {"crop": 32}, "at most the view, 16x16"),
        ("vae_audio", "pretrain.vae_audio", {"frames": 30}, "multiple of the VAE's factor 4"),
        ("vocoder", "pretrain.vocoder", {"frames": 3}, "must be more than 3"),
    ],
)
def test_excerpts_that_do_not_fit_are_refused(small: Config, part: Part, path: str, changes: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        make_objective(part, with_part(small, path, **changes))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "either --scenes SEED or --dataset FOLDER"),
        (["--scenes", "1", "--dataset", "folder"], "either --scenes SEED or --dataset FOLDER"),
        (["--scenes", "1", "--validation", "folder"], "--validation needs --dataset"),
        (["--scenes", "-1"], "seed of the scenes is -1: give 0 or more"),
        (["--scenes", "1", "--config.pretrain.vae-video.recipe.steps", "5"], "unknown option"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], said: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    assert main(["pretrain", "vae_video", "--base", str(base), "--out", str(out), *options]) == 2
    told = capsys.readouterr().err
    assert said in told and "did you mean --config.pretrain.vae-video.recipe" not in told
    assert not out.exists()
