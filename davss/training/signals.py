"""How a run is asked to save and stop: by its driver through a file, by SIGTERM to a worker.

Ray runs the loop in a thread of the worker, and Python lets only the main thread set handlers of
signals; `faulthandler` sets one from any thread, which writes to a file when the signal comes.
"""

from __future__ import annotations

import faulthandler
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StopRequest:
    """Whether the driver wrote the file `path`, or this process received SIGTERM meanwhile.

    Until `close`, SIGTERM ends the process no longer by itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this object)
        faulthandler.register(signal.SIGTERM, self._note, all_threads=False, chain=False)

    def __call__(self) -> bool:
        """Whether to save and stop."""
        return self.by_driver() or self.by_signal()

    def by_driver(self) -> bool:
        """Whether the driver wants the run to end."""
        return self.path.exists()

    def by_signal(self) -> bool:
        """Whether this process received SIGTERM."""
        return self._note.seek(0, 2) > 0

    def close(self) -> None:
        """Let SIGTERM end the process again."""
        faulthandler.unregister(signal.SIGTERM)
        self._note.close()


@contextmanager
def sigterm_writes(path: Path) -> Iterator[None]:
    """While the block runs SIGTERM to this process writes the file `path`, and nothing more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    before = signal.signal(signal.SIGTERM, lambda *_: path.touch())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
