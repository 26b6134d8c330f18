"""Metrics reach TensorBoard and Weights & Biases as they were logged; a resumed run hides later lines."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError
from con360av_jax.train import throughput
from con360av_jax.train.trackers import open_trackers, scalars
from tests.support.tensorboard_files import events
from tests.support.tiny_world import with_train

LINE = {"step": 3, "loss": 0.5, "mfu": None, "loss_by_timestep": {"audio": [0.25, None], "video": [1.0, 2.0]}}
VALUES = {
    "step": 3.0,
    "loss": 0.5,
    "loss_by_timestep/audio/0": 0.25,
    "loss_by_timestep/video/0": 1.0,
    "loss_by_timestep/video/1": 2.0,
}


def log(run: Path, config: Config, start: int, step: int) -> None:
    for tracker in open_trackers(run, config, start):
        tracker.log(step, LINE)
        tracker.close()


def test_every_number_of_a_line_has_a_name():
    assert dict(scalars(LINE)) == VALUES


def test_tensorboard_holds_what_was_logged(tiny: Config, tmp_path: Path):
    log(tmp_path, tiny, start=0, step=3)
    written = [event for event in events(tmp_path / "tensorboard") if event.summary.value]
    assert {event.summary.value[0].tag: event.summary.value[0].simple_value for event in written} == VALUES
    assert {event.step for event in written} == {3}


def test_a_resumed_run_hides_what_was_logged_after_its_start(tiny: Config, tmp_path: Path):
    log(tmp_path, tiny, start=0, step=3)
    log(tmp_path, tiny, start=2, step=3)
    starts = [event.step for event in events(tmp_path / "tensorboard") if event.session_log.status == SessionLog.START]
    assert starts == [3]


def test_weights_and_biases_is_asked_for_by_name_and_found_again_on_resume(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls, logged = [], []
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    fake = SimpleNamespace(init=lambda **options: calls.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = with_train(tiny, wandb_project="views", tensorboard=False)
    for start in (0, 2):
        log(tmp_path / "run", config, start=start, step=3)
    assert [call["project"] for call in calls] == ["views"] * 2
    assert calls[0]["id"] == calls[1]["id"] and calls[1]["resume"] == "allow"
    assert logged == [(3, VALUES)] * 2
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_weights_and_biases_that_is_not_installed_is_a_clear_error(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = with_train(tiny, wandb_project="views")
    with pytest.raises(ConfigError, match="pip install wandb"):
        open_trackers(tmp_path, config, 0)


@pytest.mark.parametrize(
    ("kind", "flops"),
    [("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12), ("cpu", None)],
)
def test_peaks_are_found_by_the_devices_kind(kind: str, flops: float | None):
    assert throughput.peak_flops(kind) == flops


def test_utilisation_is_a_share_of_all_devices_peak(monkeypatch: pytest.MonkeyPatch):
    assert throughput.utilisation(1e15, 1.0) is None
    monkeypatch.setattr(throughput, "peak_flops", lambda kind: 1e12)
    assert throughput.utilisation(4e12, 2.0) == pytest.approx(2 / jax.device_count())
