"""Held-out records: losses with fixed draws on any batch size and mesh, the best checkpoint, sample clips, resume."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import con360av_jax as c3
from con360av_jax.config.settings import Config, MeshConfig, PerModality
from con360av_jax.data.fake import ALL_FIELDS
from con360av_jax.data.schema import ENCODED_FIELDS, SampleEntry
from con360av_jax.data.source import open_dataset
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import CheckpointError, ConfigError, DatasetError
from con360av_jax.media.files import probe
from con360av_jax.models.functional import Params
from con360av_jax.sharding import make_mesh
from con360av_jax.train import best, checkpoint, program
from con360av_jax.train.held_out import spread_over_recordings
from con360av_jax.train.loop import train
from con360av_jax.train.optimizer import make_optimizer, select
from con360av_jax.train.state import TrainState, init_state
from con360av_jax.train.validation import Validation, make_validation_loss, validation_timesteps
from tests.support import tiny_world
from tests.support.tensorboard_files import events
from tests.support.tiny_world import metrics, with_train
from tests.support.toy_model import BATCH, RECIPE, toy, toy_batch, toy_params

# Float32 means over rows whose batch or devices are others.
ROUNDING = 1e-6


@pytest.fixture(scope="module", autouse=True)
def quick_compiles() -> Iterator[None]:
    with tiny_world.quick_compiles():
        yield


@pytest.mark.parametrize("records", [1, 3, 32])
def test_timesteps_lie_evenly_over_all_and_each_record_has_one_in_each_range(records: int):
    timesteps = validation_timesteps(records, 1000)
    assert (timesteps // 250).tolist() == [[0, 1, 2, 3]] * records
    # Middles of 4 N equal parts, rounded down.
    np.testing.assert_allclose(np.sort(timesteps.ravel()), (np.arange(4 * records) + 0.5) * 250 / records, atol=1)


def toy_examples(count: int) -> list[Any]:
    batch = toy_batch(5)
    return [jax.tree.map(lambda leaf, row=row: leaf[row], batch) for row in range(count)]


def toy_state() -> tuple[TrainState, Params]:
    trainable, frozen = select(toy_params(), RECIPE.trainable)
    state = init_state(trainable, make_optimizer(RECIPE))
    return replace(state, ema=jax.tree.map(lambda leaf: 0.5 * leaf, state.ema)), frozen


def toy_lines(tiny: Config, run: Path, rows: int, mesh: MeshConfig | None = None, **changes: Any) -> list[dict]:
    """Lines of one validation of the toy model: three records, twelve rows."""
    run.mkdir(exist_ok=True)
    config = replace(tiny, train=replace(RECIPE, batch_size=rows, **changes))
    state, frozen = toy_state()
    loss = jax.jit(make_validation_loss(toy, config.schedule, config.train))
    validation = Validation(config, make_mesh(mesh or MeshConfig()), toy_examples(3), loss, None, frozen, run)
    lowest = validation(7, state, [])
    lines = [json.loads(line) for line in (run / best.VALIDATION).read_text().splitlines()]
    assert lowest == lines[-2]["loss"]
    return lines[-2:]


def test_two_validations_of_the_same_weights_are_equal_and_batch_mesh_and_seed_change_rounding_only(
    tiny: Config, tmp_path: Path
):
    first = toy_lines(tiny, tmp_path / "run", rows=4)
    assert toy_lines(tiny, tmp_path / "run", rows=4) == first
    flat = numbers(first)
    assert len(flat) == 2 * (3 + 2 * 4)
    others = [
        toy_lines(tiny, tmp_path / "five", rows=5),
        toy_lines(tiny, tmp_path / "seed", rows=4, seed=9),
        toy_lines(tiny, tmp_path / "parts", rows=8, accumulate=2),
        toy_lines(tiny, tmp_path / "eight", rows=8, mesh=MeshConfig(data=4, fsdp=2)),
    ]
    for other in others:
        np.testing.assert_allclose(numbers(other), flat, rtol=ROUNDING)


def numbers(lines: list[dict]) -> list[float]:
    """Losses of lines, in order."""
    return [leaf for line in lines for leaf in jax.tree.leaves({**line, "weights": 0}) if isinstance(leaf, float)]


def test_a_line_holds_means_over_rows_and_ranges_and_the_weighted_sum(tiny: Config, tmp_path: Path):
    ema, raw = toy_lines(tiny, tmp_path / "run", rows=4)
    assert (ema["step"], ema["weights"], raw["weights"]) == (7, "ema", "raw")
    assert ema["loss_video"] != pytest.approx(raw["loss_video"], rel=1e-2)
    for line in (ema, raw):
        assert line["loss"] == pytest.approx(line["loss_audio"] + line["loss_video"], rel=ROUNDING)
        for name in ("audio", "video"):
            assert np.mean(line["loss_by_timestep"][name]) == pytest.approx(line[f"loss_{name}"], rel=ROUNDING)
    weighed, _ = toy_lines(tiny, tmp_path / "weighed", rows=4, loss_weight=PerModality(audio=2.0, video=0.5))
    assert weighed["loss"] == pytest.approx(2 * ema["loss_audio"] + 0.5 * ema["loss_video"], rel=ROUNDING)
    assert weighed["loss_audio"] == pytest.approx(ema["loss_audio"], rel=ROUNDING)


def rows_seen(tiny: Config, **rates: float) -> Any:
    """Inputs of the network for a batch of held-out rows."""
    seen = []

    def noting(params: Params, inputs: Any) -> Any:
        seen.append(inputs)
        return inputs.latents

    number = jnp.arange(BATCH)
    make_validation_loss(noting, tiny.schedule, replace(RECIPE, **rates))({}, {}, toy_batch(), 100 * number, number)
    return seen[-1]


def test_held_out_rows_keep_all_conditions_and_their_draws_differ(tiny: Config):
    inputs = rows_seen(tiny, text_dropout=0.9, map_dropout=0.9, saliency_dropout=0.9, basd_dropout=0.9)
    assert np.asarray(inputs.map_mask).all()
    np.testing.assert_array_equal(inputs.maps, toy_batch()["maps"])
    np.testing.assert_array_equal(inputs.text["video"], toy_batch()["text"]["video"])
    np.testing.assert_array_equal(inputs.timesteps["audio"], 100 * np.arange(BATCH))
    assert len(set(np.asarray(inputs.connector_timesteps["audio"]).tolist())) > 1
    assert 0 < np.count_nonzero(np.abs(inputs.clean_estimates["video"]).sum(axis=(1, 2, 3, 4))) < BATCH


def test_maps_that_training_never_shows_are_not_shown_to_held_out_rows(tiny: Config):
    assert not np.asarray(rows_seen(tiny, map_dropout=1.0).map_mask).any()
    one = rows_seen(tiny, saliency_dropout=1.0)
    assert np.asarray(one.map_mask).all()
    assert not np.asarray(one.maps[..., 0]).any()
    np.testing.assert_array_equal(one.maps[..., 1], toy_batch()["maps"][..., 1])


def test_records_are_spread_over_recordings():
    clips = ["a", "a", "a", "b", "c", "c"]
    entries = [SampleEntry(f"{clip}/{n}/0", clip, 0.0, n, 0, "") for n, clip in enumerate(clips)]
    assert spread_over_recordings(entries, 4) == [0, 3, 4, 1]
    assert spread_over_recordings(entries, 99) == [0, 3, 4, 1, 5, 2]


@pytest.fixture(scope="module")
def config(lean: Config) -> Config:
    """Validated at every second of six steps, with clips at every third."""
    changes = {"validate_every": 2, "sample_every": 3, "sample_clips": 2, "validation_records": 3, "milestone_every": 5}
    return with_train(lean, steps=6, checkpoint_every=4, keep_checkpoints=1, learning_rate=0.05, **changes)


@pytest.fixture(scope="module")
def held_out(lean: Config) -> Path:
    return tiny_world.held_out(lean)


@pytest.fixture(scope="module")
def validated(
    config: Config, folders: tuple[Path, Path], held_out: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("validated") / "run"
    with tiny_world.without_network():
        assert train(config, *folders, run, validation=held_out) is None
    return run


def test_a_run_is_validated_with_average_and_trained_weights(validated: Path):
    lines = metrics(validated, best.VALIDATION)
    assert [(line["step"], line["weights"]) for line in lines] == [(s, w) for s in (2, 4, 6) for w in ("ema", "raw")]
    for ema, raw in zip(lines[::2], lines[1::2], strict=True):
        assert ema["loss"] != raw["loss"]
    assert [line["step"] for line in metrics(validated)] == [1, 2, 3, 4, 5, 6]


def test_trackers_hold_the_held_out_losses(validated: Path):
    tags = {
        (value.tag, event.step): value.simple_value
        for event in events(validated / "tensorboard")
        for value in event.summary.value
    }
    for line in metrics(validated, best.VALIDATION):
        assert tags[f"validation/{line['weights']}/loss", line["step"]] == pytest.approx(line["loss"])
        found = tags[f"validation/{line['weights']}/loss_by_timestep/video/3", line["step"]]
        assert found == pytest.approx(line["loss_by_timestep"]["video"][3])


def test_the_best_checkpoint_has_the_lowest_loss_of_the_average_and_opens(validated: Path):
    losses = {line["step"]: line["loss"] for line in metrics(validated, best.VALIDATION) if line["weights"] == "ema"}
    lowest = min(losses, key=losses.__getitem__)
    assert json.loads((validated / "checkpoints" / "best").read_text()) == {"step": lowest, "loss": losses[lowest]}
    assert {lowest, 5, 6} <= set(checkpoint.finished_steps(validated))
    assert c3.load(validated / "checkpoints" / "best").step == lowest


def test_each_set_of_samples_has_clips_of_the_first_records_with_control_and_card(validated: Path, config: Config):
    folder = validated / "samples"
    assert sorted(path.name for path in folder.iterdir()) == ["3", "6"]
    for step in ("3", "6"):
        names = [f"fake_00000{number}_0_0" for number in (5, 6)]
        assert sorted(path.name for path in (folder / step).iterdir()) == sorted(
            f"{name}{suffix}" for name in names for suffix in (".json", ".mp4", ".npz")
        )
        cards = [json.loads((folder / step / f"{name}.json").read_text()) for name in names]
        assert [card["seed"] for card in cards] == [0, 1]
        assert [card["trained_steps"] for card in cards] == [int(step)] * 2
        assert cards[0]["maps_key"] == "fake_000005/0/0" and cards[0]["caption"] == "fake scene 5"
        assert probe(folder / step / f"{names[0]}.mp4").duration == pytest.approx(config.clip.seconds, abs=0.1)


def test_a_resumed_run_measures_and_samples_as_an_uninterrupted_one(
    validated: Path, config: Config, folders: tuple[Path, Path], held_out: Path, tmp_path: Path
):
    run = tmp_path / "run"
    with tiny_world.without_network():
        train(with_train(config, steps=3), *folders, run, validation=held_out)
        # What a killed run leaves behind its last checkpoint: a line that was written, and half of one.
        line = (run / best.VALIDATION).read_text().splitlines()[0].replace('"step": 2', '"step": 4')
        with (run / best.VALIDATION).open("a") as file:
            file.write(line.replace('"loss": ', '"loss": 0') + "\n" + line[:30])
        train(config, *folders, run, validation=held_out, resume=True)
    for name in (best.VALIDATION, f"checkpoints/{best.BEST}"):
        assert (run / name).read_bytes() == (validated / name).read_bytes()
    assert metrics(run) == metrics(validated)
    assert tiny_world.files_below(run / "samples").keys() == tiny_world.files_below(validated / "samples").keys()
    clip = Path("samples/6/fake_000005_0_0.mp4")
    assert (run / clip).read_bytes() == (validated / clip).read_bytes()


def test_the_training_step_is_the_same_program_with_and_without_validation(config: Config, lean: Config):
    mesh = make_mesh(lean.mesh)

    def text(config: Config) -> str:
        with tiny_world.without_network():
            return program.trace_step(config, mesh, *program.abstract_start(config, mesh)).lower().as_text()

    without = with_train(config, validate_every=0, sample_every=0, milestone_every=0, validation_records=1)
    assert text(config) == text(without)


def test_a_run_without_held_out_records_says_so_and_is_not_validated(
    config: Config, folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with tiny_world.without_network():
        train(with_train(config, steps=2), *folders, tmp_path / "run")
    assert [line for line in caplog.messages if "held-out" in line] == [
        f"{tmp_path / 'run'} has no held-out records: it is not validated (give --validation DATASET)"
    ]
    assert not (tmp_path / "run" / best.VALIDATION).exists()
    assert not (tmp_path / "run" / "samples").exists()


def test_held_out_records_that_cannot_be_used_are_refused(
    config: Config, folders: tuple[Path, Path], held_out: Path, validated: Path, tmp_path: Path
):
    useless = with_train(config, validate_every=0, sample_every=0)
    with pytest.raises(ConfigError, match="has no use: set train.validate_every or train.sample_every above 0"):
        train(useless, *folders, tmp_path / "run", validation=held_out)
    with pytest.raises(DatasetError, match="does not exist"):
        train(config, *folders, tmp_path / "run", validation=tmp_path / "nothing")
    run = Path(shutil.copytree(validated, tmp_path / "copy"))
    with pytest.raises(CheckpointError, match=f"no held-out dataset is given, but {run} was validated on another: "):
        train(config, *folders, run, resume=True)
    with pytest.raises(CheckpointError, match="is given, but .* was validated on another"):
        train(config, *folders, run, validation=folders[1], resume=True)
    more = with_train(config, validation_records=2)
    with pytest.raises(CheckpointError, match="train.validation_records, which cannot be allowed"):
        train(more, *folders, run, validation=held_out, resume=True)
    assert not (tmp_path / "run").exists()


def test_recordings_in_both_datasets_are_counted(
    config: Config, folders: tuple[Path, Path], held_out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with tiny_world.without_network():
        train(with_train(config, steps=1), *folders, tmp_path / "run", validation=folders[1])
    told = f"5 recordings of {folders[1]}, such as fake_000000, are in the training dataset as well"
    assert told in caplog.text


def test_records_without_latents_are_encoded(
    config: Config, folders: tuple[Path, Path], held_out: Path, tmp_path: Path
):
    """The encoders' own test compares their numbers with stored latents; here they only have to be used."""
    fields = tuple(name for name in ALL_FIELDS if name not in ENCODED_FIELDS)
    samples = [
        replace(sample, arrays={name: sample.arrays[name] for name in fields}) for sample in open_dataset(held_out)
    ]
    write_dataset(tmp_path / "raw", samples, config, fields, [], {})
    with tiny_world.without_network():
        recipe = with_train(config, steps=2, sample_every=0)
        train(recipe, *folders, tmp_path / "run", validation=tmp_path / "raw")
    assert [line["step"] for line in metrics(tmp_path / "run", best.VALIDATION)] == [2, 2]
