"""NaN or infinite losses and gradients: the run stops before it saves, or skips the step."""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.config.settings import Config, TrainConfig
from con360av_jax.denoiser import DenoiserInputs, Latents
from con360av_jax.diffusion.loss import dropout_rates
from con360av_jax.errors import ConfigError, DivergenceError
from con360av_jax.models.functional import Params
from con360av_jax.train import checkpoint, loop
from con360av_jax.train.checkpoint import Progress
from con360av_jax.train.metrics import MetricsLog
from con360av_jax.train.optimizer import make_optimizer
from con360av_jax.train.state import TrainState, init_state
from con360av_jax.train.step import TrainStep, make_train_step
from tests.support.tiny_world import leaves_equal, metrics, with_train

NULL_TEXT = {name: np.zeros((1,), np.float32) for name in ("audio", "video")}


def scaled(params: Params, inputs: DenoiserInputs) -> Latents:
    """A model of one number; at 0 its value is finite and its gradient is not."""
    return {name: jnp.sqrt(params["map_encoder"]["scale"][0]) * x for name, x in inputs.latents.items()}


class Batches:
    """A loader: the ids of step s (counted from 1) are 2 s - 2 and 2 s - 1; steps `bad` hold NaN."""

    corrupt: dict[int, str] = {}

    def __init__(self, bad: tuple[int, ...]):
        self._bad, self._step = bad, 0

    def __next__(self) -> dict[str, object]:
        self._step += 1
        mean = np.full((2, 3), self._step, np.float32)
        mean[1, 1] = np.nan if self._step in self._bad else 0
        return {
            "moments": {name: {"mean": mean, "std": np.ones_like(mean)} for name in NULL_TEXT},
            "text": {name: np.zeros((2, 1), np.float32) for name in NULL_TEXT},
            "maps": np.zeros((2, 1, 1, 1, 2), np.float32),
            "sample_id": np.arange(2, dtype=np.int32) + 2 * (self._step - 1),
        }

    def get_state(self) -> int:
        return self._step

    def set_state(self, step: int) -> None:
        self._step = step

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def recipe(tiny: Config) -> Config:
    return with_train(
        tiny, trainable="control", warmup_steps=4, clean_estimate_share=0.0, keep_checkpoints=9, log_every=100, steps=8,
        checkpoint_every=2, max_skips=2,
    )  # fmt: skip


def start_state(config: Config, scale: float = 0.25) -> TrainState:
    return init_state({"map_encoder": {"scale": jnp.full((2,), scale, jnp.float32)}}, make_optimizer(config.train))


@cache
def compiled(config: Config) -> TrainStep:
    return jax.jit(make_train_step(scaled, config.schedule, config.train))


def train(run: Path, recipe: Config, bad: tuple[int, ...], on_nan: str = "skip", **changes: object) -> None:
    """Trains from the run's newest checkpoint to its last step; `changes` have no influence on the compiled step."""
    made = with_train(recipe, on_nan=on_nan)
    config, step = with_train(made, **changes), compiled(made)
    run.mkdir(exist_ok=True)
    loader, state, progress = Batches(bad), start_state(config), Progress(step=0, next_batch=0, seed=0)
    if (newest := checkpoint.step_to_resume(run)) is not None:
        state, progress = loop.restore_state(state, run / "checkpoints" / str(newest))
        loader.set_state(progress.next_batch)
    for name in ("metrics.jsonl", "nonfinite.jsonl"):
        loop.drop_after(run / name, progress.step)
    dropout, key = dropout_rates(config.train), jax.random.key(0)
    loop.run_steps(
        config,
        run,
        loader,  # pyright: ignore[reportArgumentType]
        state,
        progress,
        lambda state, batch: step(state, {}, batch, NULL_TEXT, dropout, key),  # pyright: ignore[reportArgumentType]
        MetricsLog(run / "metrics.jsonl", config.train.batch_size),
    )


def arrays_at(run: Path, step: int, config: Config) -> dict[str, object]:
    return checkpoint.arrays_of(loop.restore_state(start_state(config), run / "checkpoints" / str(step))[0])


def test_stop_names_step_and_samples_and_saves_nothing_behind_it(recipe: Config, tmp_path: Path):
    run = tmp_path / "run"
    with pytest.raises(DivergenceError, match="step 3 is not finite: loss nan, gradient norm nan, sample ids 4, 5:"):
        train(run, recipe, (3,), on_nan="stop")
    assert checkpoint.finished_steps(run) == [2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays_at(run, 2, recipe)))
    wanted = {"step": 3, "loss": "nan", "gradient_norm": "nan", "sample_ids": [4, 5], "skipped": False}
    assert metrics(run, "nonfinite.jsonl") == [wanted]
    assert [line["step"] for line in metrics(run)] == [2]


def test_a_stopped_run_goes_on_by_leaving_the_step_out(recipe: Config, tmp_path: Path):
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    with pytest.raises(DivergenceError):
        train(stopped, recipe, (3,), on_nan="stop", steps=4)
    train(straight, recipe, (3,))
    train(stopped, recipe, (3,))
    assert checkpoint.newest_intact(stopped) == 8
    assert [line["skipped"] for line in metrics(stopped, "nonfinite.jsonl")] == [True]


def test_a_step_that_is_left_out_changes_nothing_but_counts(
    recipe: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = tmp_path / "run"
    train(run, recipe, (3,), checkpoint_every=1)
    at = {step: arrays_at(run, step, recipe) for step in (2, 3, 4)}
    assert leaves_equal(at[3], at[2])
    assert not leaves_equal(at[4]["trainable"], at[3]["trainable"])
    assert checkpoint.read_progress(run / "checkpoints" / "3") == Progress(step=3, next_batch=3, seed=0, skips=1)
    assert checkpoint.read_progress(run / "checkpoints" / "4") == Progress(step=4, next_batch=4, seed=0, skips=0)
    assert metrics(run, "nonfinite.jsonl")[0]["sample_ids"] == [4, 5]
    [warning] = caplog.messages
    assert "step 3 is not finite" in warning
    # Two updates came before step 4: the average's decay is 3 / 12.
    before, after = (jax.tree.leaves(at[step]["ema"])[0] for step in (3, 4))
    newest = jax.tree.leaves(at[4]["trainable"])[0]
    np.testing.assert_allclose(after, 0.25 * before + 0.75 * newest, rtol=1e-6)
    # There is nothing to say about step 3; warm-up goes on where it was.
    assert [line["step"] for line in metrics(run)] == [1, 2, 4, 5, 6, 7, 8]
    rates = [line["learning_rate"] / recipe.train.learning_rate for line in metrics(run)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1])


def test_averages_leave_such_steps_out(recipe: Config, tmp_path: Path):
    whole, single = tmp_path / "whole", tmp_path / "single"
    train(whole, recipe, (3,), checkpoint_every=4, steps=4)
    train(single, recipe, (3,), checkpoint_every=1, steps=4)
    losses = [line["loss"] for line in metrics(single)]
    assert [line["loss"] for line in metrics(whole)] == [pytest.approx(sum(losses) / 3)]


def test_a_resumed_run_with_steps_left_out_equals_an_uninterrupted_one(recipe: Config, tmp_path: Path):
    resumed, straight = tmp_path / "resumed", tmp_path / "straight"
    bad = (3, 4, 6)
    train(straight, recipe, bad)
    train(resumed, recipe, bad, steps=4)
    train(resumed, recipe, bad)
    assert leaves_equal(arrays_at(resumed, 8, recipe), arrays_at(straight, 8, recipe))
    for name in ("metrics.jsonl", "nonfinite.jsonl"):
        assert metrics(resumed, name) == metrics(straight, name)


def test_more_steps_in_a_row_than_allowed_stop_the_run(recipe: Config, tmp_path: Path):
    with pytest.raises(DivergenceError, match=r"step 5 .* number 3 in a row, train.max_skips is 2"):
        train(tmp_path / "at once", recipe, (3, 4, 5), checkpoint_every=8)
    train(tmp_path / "with a pause", recipe, (2, 3, 5, 6, 8), checkpoint_every=8)
    # Counted on when the run was resumed in between.
    train(tmp_path / "resumed", recipe, (3, 4), steps=4)
    with pytest.raises(DivergenceError, match=r"step 5 .* number 3 in a row"):
        train(tmp_path / "resumed", recipe, (3, 4, 5))


def test_a_finite_loss_without_a_finite_gradient_is_left_out(recipe: Config):
    config = with_train(recipe, on_nan="skip")
    before = start_state(config, scale=0.0)
    rest: Any = ({}, next(Batches(())), NULL_TEXT, dropout_rates(config.train), jax.random.key(0))
    after, metrics = compiled(config)(before, *rest)
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["gradient_norm"])
    assert leaves_equal(checkpoint.arrays_of(after), checkpoint.arrays_of(before))
    assert int(after.step) == 1


def test_no_step_at_all_may_not_be_the_limit():
    with pytest.raises(ConfigError, match="max_skips=0 is below 1"):
        TrainConfig(max_skips=0)
