"""Ends a worker whose step hangs, so that the run is started again from its newest checkpoint."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_MIN_STEPS = 10  # the first ones compile and fill caches
EXIT_STATUS = 70


class Watchdog:
    """Calls `on_hang(seconds)` from its own thread when a step takes longer than `factor` times
    the median of the steps before, and longer than `floor` seconds. A factor of 0 never does.
    """

    def __init__(self, factor: float, floor: float, on_hang: Callable[[float], None]) -> None:
        self.factor, self.floor, self.on_hang = factor, floor, on_hang
        self._durations: deque[float] = deque(maxlen=101)
        self._began: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if factor:
            self._thread.start()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch what the block does."""
        self._began = began = time.monotonic()
        try:
            yield
        finally:
            self._began = None
        self._durations.append(time.monotonic() - began)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(self.floor / 4, 5.0)):
            began, durations = self._began, list(self._durations)
            if began is None or len(durations) < _MIN_STEPS:
                continue
            taken = time.monotonic() - began
            if taken > max(self.floor, self.factor * statistics.median(durations)):
                self.on_hang(taken)
                return


def end_process(log_file: Path, name: str) -> Callable[[float], None]:
    """Say in the run's log that a step hangs, and end this process."""

    def end(seconds: float) -> None:
        with log_file.open("a") as file:
            file.write(f"{name} a step takes {seconds:.0f} s: it hangs; this worker ends\n")
        os._exit(EXIT_STATUS)  # a thread that hangs in a library heeds nothing gentler

    return end
