"""Clean stops: SIGTERM and Ctrl-C are recorded, and the loop checks for them between steps."""

import signal
import threading
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopRequest:
    """Context manager that records the first SIGTERM or SIGINT; a second one has its usual effect."""

    def __init__(self):
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        # Python delivers signals to the main thread only, and only there may handlers be set.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def agreed(self, all_ask: bool) -> bool:
        """Whether to stop after this step, on which all processes agree if `all_ask` is the same on all of them.

        A single process stops as soon as a signal came. Several processes get signals within different steps, or
        only one of them does, but have to stop after the same step, because a step and a checkpoint need all of
        them. They ask each other only where `all_ask`, because that waits for the step.
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
