"""Stopping cleanly: SIGTERM and Ctrl-C are notes that the loop reads between steps."""

import signal
import threading
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopRequest:
    """While entered, the first SIGTERM or SIGINT is only noted; a second one acts as if this were not here."""

    def __init__(self):
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        # Python delivers signals to the main thread only; elsewhere their owner decides.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def agreed(self, all_ask: bool) -> bool:
        """Whether to stop after this step: one process as soon as a signal came, several only where `all_ask`.

        A signal reaches the processes of a run within different steps, or only one of them. All have to stop after the
        same step, since a step and a checkpoint need everyone; so they ask each other, which takes a wait for the step.
        """
        if jax.process_count() == 1:
            return self.received is not None
        if not all_ask:
            return False
        number = max(0, *np.ravel(multihost_utils.process_allgather(np.int32(self.received or 0))).tolist())
        self.received = signal.Signals(number) if number else None
        return self.received is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
