"""Ends a worker whose step hangs, so that the run is started again from its newest checkpoint."""

from __future__ import annotations

import faulthandler
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MIN_STEPS = 10  # the first ones compile and fill caches


class Watchdog:
    """Ends this process when a step takes longer than `factor` times the median of the steps before
    and longer than `floor` seconds; where it hangs goes to `log_file`. A factor of 0 never does.
    """

    def __init__(self, factor: float, floor: float, log_file: Path) -> None:
        self.factor, self.floor = factor, floor
        self._durations: deque[float] = deque(maxlen=101)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self._log = log_file.open("a")

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch what the block does."""
        began = time.monotonic()
        if self.factor and len(self._durations) >= _MIN_STEPS:
            limit = max(self.floor, self.factor * statistics.median(self._durations))
            # Python's own, for a thread that hangs in a library heeds nothing gentler
            faulthandler.dump_traceback_later(limit, exit=True, file=self._log)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        self._durations.append(time.monotonic() - began)

    def close(self) -> None:
        """Stop watching."""
        self._log.close()
