"""A signal is recorded: one process stops after the step, several agree on a step at which all of them ask."""

import signal

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from con360av_jax.train.stop import StopRequest


def test_one_process_stops_after_the_step_in_which_a_signal_came():
    with StopRequest() as stop:
        assert not stop.agreed(all_ask=False)
        signal.raise_signal(signal.SIGTERM)
        assert stop.agreed(all_ask=False)
    assert stop.received is signal.SIGTERM


@pytest.mark.parametrize("others", [(0, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)])
def test_all_processes_stop_at_the_step_at_which_they_ask_if_one_was_told_to(
    others: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def gathered(own: np.ndarray) -> np.ndarray:
        asked.append(int(own))
        return np.asarray(others, np.int32)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", gathered)
    stop = StopRequest()
    stop.received = signal.Signals(others[0]) if others[0] else None
    assert not stop.agreed(all_ask=False)
    assert asked == []
    assert stop.agreed(all_ask=True)
    assert asked == [others[0]]
    assert stop.received is signal.SIGTERM


def test_processes_that_nobody_told_to_stop_go_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda own: np.zeros((2,), np.int32))
    stop = StopRequest()
    assert not stop.agreed(all_ask=True)
    assert stop.received is None
