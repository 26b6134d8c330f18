"""A run compiles its step once, and nothing at all after that."""

from pathlib import Path
from typing import Any

import jax
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.sharding import make_mesh
from con360av_jax.train import loop, program
from con360av_jax.train.loop import train
from tests.support import tiny_world

COMPILED = "/jax/core/compile/backend_compile_duration"
TRACED = "/jax/core/compile/jaxpr_trace_duration"


class Heard(list[tuple[int, str, str]]):
    """Records (batches handed out so far, event, compiled function) in order, programs from a cache included."""

    batches = 0

    def __call__(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.append((self.batches, event, str(kwargs.get("fun_name", ""))))

    def during(self, event: str, batches: range) -> list[str]:
        return [name for when, which, name in self if which == event and when in batches]


@pytest.fixture
def heard(lean: Config, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Compilations of a run over two epochs and a batch, with a line of metrics per step and a checkpoint per two."""
    config = tiny_world.with_train(lean, batch_size=2, steps=6, log_every=1, checkpoint_every=2)
    heard, place = Heard(), loop.on_mesh

    def counting(*arguments: Any) -> Any:
        heard.batches += 1
        return place(*arguments)

    monkeypatch.setattr(loop, "on_mesh", counting)
    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        with tiny_world.without_network():
            train(config, *folders, tmp_path / "run")
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    assert [line["step"] for line in tiny_world.metrics(tmp_path / "run")] == list(range(1, 7))
    return heard


def test_a_run_over_two_epochs_with_a_partial_batch_compiles_its_step_once_and_nothing_after_the_first(heard: Heard):
    assert heard.batches == 6
    assert heard.during(COMPILED, range(99)).count("jit(step)") == 1
    assert heard.during(COMPILED, range(2, 99)) == []
    assert heard.during(TRACED, range(2, 99)) == []


def test_baseline_and_control_share_one_program(lean: Config):
    """Dropout rates are values of the step: whatever they are, its text is the same."""
    mesh = make_mesh(lean.mesh)

    def text(**rates: float) -> str:
        config = tiny_world.with_train(lean, **rates)
        with tiny_world.without_network():
            return program.trace_step(config, mesh, *program.abstract_start(config, mesh)).lower().as_text()

    control = text()
    assert "stablehlo" in control
    assert text(map_dropout=1.0) == control
    assert text(text_dropout=0.0, map_dropout=0.3, saliency_dropout=0.5, basd_dropout=1.0) == control


def test_counting_operations_traces_a_step_without_remat_once(lean: Config, monkeypatch: pytest.MonkeyPatch):
    traced, trace = [], program.trace_step
    monkeypatch.setattr(program, "trace_step", lambda *arguments: traced.append(arguments[0]) or trace(*arguments))
    mesh = make_mesh(lean.mesh)
    with tiny_world.without_network():
        counted = program.compile_step(lean, mesh, *program.abstract_start(lean, mesh), count=True)
        assert len(traced) == 1
        assert counted.flops > 0
        again = tiny_world.with_train(lean, remat="blocks")
        program.compile_step(again, mesh, *program.abstract_start(again, mesh), count=True)
    assert [config.train.remat for config in traced] == ["none", "blocks", "none"]
