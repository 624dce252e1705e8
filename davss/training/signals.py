"""How a run is asked to save and stop: by its driver through a file, by SIGTERM to a worker.

Ray runs the loop in a thread of the worker, and Python lets only the main thread set handlers of
signals; `faulthandler` sets one from any thread, which writes to a file when the signal comes.
"""

from __future__ import annotations

import faulthandler
import math
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from davss.errors import StorageError
from davss.storage.mirror import Mirror


class StopRequest:
    """Whether the driver wrote the file `path`, or this process received SIGTERM meanwhile.

    Until `close`, SIGTERM ends the process no longer by itself.
    """

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        self.path, self.mirror = path, mirror
        self._asked_at, self._asking = -math.inf, 0.0
        self._note = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this object)
        faulthandler.register(signal.SIGTERM, self._note, all_threads=False, chain=False)

    def __call__(self) -> bool:
        """Whether to save and stop."""
        return self.by_driver() or self.by_signal()

    def by_driver(self) -> bool:
        """Whether the driver wants the run to end; a bucket is asked for 2 % of the time."""
        now = time.monotonic()
        if self.mirror and not self.path.exists() and now - self._asked_at > 50 * self._asking:
            with suppress(StorageError):  # it is asked again
                if self.mirror.has(self.path.name):
                    self.path.touch()
            self._asked_at, self._asking = time.monotonic(), time.monotonic() - now
        return self.path.exists()

    def by_signal(self) -> bool:
        """Whether this process received SIGTERM."""
        return self._note.seek(0, 2) > 0

    def close(self) -> None:
        """Let SIGTERM end the process again."""
        faulthandler.unregister(signal.SIGTERM)
        self._note.close()


@contextmanager
def sigterm_writes(path: Path, mirror: Mirror | None = None) -> Iterator[None]:
    """While the block runs SIGTERM to this process writes the file `path`, and nothing more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if mirror:
        mirror.remove(path.name)

    def write(*_: Any) -> None:
        path.touch()
        if mirror:
            mirror.send(path.name)

    before = signal.signal(signal.SIGTERM, write)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
