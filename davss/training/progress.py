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
from contextlib import contextmanager, suppress
from pathlib import Path

from davss.errors import StorageError
from davss.storage.mirror import Mirror

INTERVAL, MIRROR_INTERVAL = 0.5, 5.0  # seconds between two looks at the log


class Progress:
    """Lines such as `speech 1200/4000 samples  loss 0.31  valid 0.33  12.3 samples/s  eta 3:10`.

    Counted from `start` samples at construction; a line is `due` when `every` seconds have passed.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        total: int,
        start: int,
        every: float = 10.0,
        mirror: Mirror | None = None,
    ) -> None:
        self.path, self.name, self.total, self.start, self.every = path, name, total, start, every
        self.mirror = mirror
        self.began = time.monotonic()
        self.shown = self.began
        self.valid: float | None = None

    def say(self, message: str) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{self.name} {message}\n")
        if self.mirror:
            with suppress(StorageError):  # a line less is no reason to end
                self.mirror.send(self.path.name)

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
def shown(path: Path, mirror: Mirror | None = None) -> Iterator[None]:
    """Print what is appended to `path`, or to what the storage has of it, to stderr while the block
    runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    # Not the file itself: a worker on this machine may be writing it.
    source = path.with_name(f"shown-{path.name}") if mirror else path
    source.touch()

    def look() -> None:
        if mirror:
            with suppress(StorageError):  # the next look may find it
                mirror.receive(path.name, source)

    look()
    ended, position = threading.Event(), source.stat().st_size

    def follow(position: int) -> None:
        while True:
            last_round = ended.is_set()
            look()
            with source.open("rb") as file:
                file.seek(position)
                text = file.read()
            position += len(text)
            print(text.decode(errors="replace"), end="", file=sys.stderr, flush=True)
            if last_round:
                return
            ended.wait(MIRROR_INTERVAL if mirror else INTERVAL)

    thread = threading.Thread(target=follow, args=(position,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
