"""Progress of a run as lines of text: rank 0 writes them to a log file, the driver shows them.

Ray captures the workers' output and adds a prefix to every line, so the driver follows the file
instead, which also stays as the log of the run: `tail -f storage/training/<run>/train.log`.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Progress:
    """Lines such as `speech 1200/4000 samples  loss 0.31  valid 0.33  12.3 samples/s  eta 3:10`.

    Counted from `start` samples at construction; a line is `due` when `every` seconds have passed.
    """

    def __init__(self, path: Path, name: str, total: int, start: int, every: float = 10.0) -> None:
        self.path, self.name, self.total, self.start, self.every = path, name, total, start, every
        self.began = time.monotonic()
        self.shown = self.began
        self.valid: float | None = None

    def say(self, message: str) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(f"{self.name} {message}\n")

    def due(self) -> bool:
        """Whether `every` seconds have passed since the last line."""
        return time.monotonic() - self.shown >= self.every

    def update(self, samples_seen: int, loss: float) -> None:
        """Report where the run is."""
        self.shown = now = time.monotonic()
        rate = (samples_seen - self.start) / max(now - self.began, 1e-9)
        parts = [f"{samples_seen}/{self.total} samples", f"loss {loss:.4f}"]
        if self.valid is not None:
            parts.append(f"valid {self.valid:.4f}")
        parts.append(f"{rate:.1f} samples/s")
        parts.append(f"eta {duration((self.total - samples_seen) / max(rate, 1e-9))}")
        self.say("  ".join(parts))


class WarningLines(logging.Handler):
    """Sends the warnings of davss in a worker to the same log file."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record's message as a line."""
        self.progress.say(record.getMessage())


def duration(seconds: float) -> str:
    """Seconds as 3:10 or 2:03:10."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def shown(path: Path, interval: float = 0.5) -> Iterator[None]:
    """Print what is appended to `path` to stderr while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    ended = threading.Event()
    position = path.stat().st_size

    def follow() -> None:
        with path.open() as file:
            file.seek(position)
            while True:
                last_round = ended.is_set()
                for line in file:
                    print(line, end="", file=sys.stderr, flush=True)
                if last_round:
                    return
                ended.wait(interval)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
