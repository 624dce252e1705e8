"""Files of a bucket that this machine keeps: at most $DAVSS_CACHE_GB, what was used last stays."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from davss.errors import DavssError
from davss.storage.files import full_disk_explained

VARIABLE = "DAVSS_CACHE_GB"
IN_USE = 60.0  # seconds after its last use in which a file does not go: somebody may be opening it


def scratch_root() -> Path:
    """A folder of this user below $TMPDIR, for what can be fetched again; others may not write it.

    Raises DavssError where it is somebody else's.
    """
    root = Path(tempfile.gettempdir()).resolve() / f"davss-{os.getuid()}"
    with full_disk_explained(root):
        root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise DavssError(f"{root}: not a folder of yours; remove it or set TMPDIR")
    return root


@dataclass(frozen=True)
class Cache:
    """Files by name below `folder` (default: cache in `scratch_root`); can be pickled.

    Processes of the machine share it. A file goes at any time but within IN_USE of its last `get`;
    whoever has it open reads on.
    """

    folder: Path | None = None

    @property
    def root(self) -> Path:
        """Where the files lie on this machine."""
        return self.folder or scratch_root() / "cache"

    def get(self, name: str, fetch: Callable[[Path], None]) -> Path:
        """The file `name`, which `fetch(path)` writes where it is not there; by one at a time."""
        path = self.root / name
        if _touched(path):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f".{path.name}.lock")):
            if not _touched(path):  # nobody else fetched it meanwhile
                fetch(path)
                self._make_room()
        return path

    def _make_room(self) -> None:
        files = []
        for path in self.root.rglob("*"):
            with suppress(OSError):  # it went meanwhile
                if path.is_file() and not path.name.startswith("."):
                    status = path.stat()
                    files.append((status.st_mtime, status.st_size, path))
        total, before = sum(size for _, size, _ in files), time.time() - IN_USE
        for used, size, path in sorted(files):
            if total <= self._limit() or used > before:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _limit(self) -> float:
        text = os.environ.get(VARIABLE)
        if not text:
            return shutil.disk_usage(self.root).total / 2
        with suppress(ValueError):
            if (size := float(text)) > 0:
                return size * 1e9
        raise DavssError(f"{VARIABLE}={text}: give the size of the cache in GB, more than 0")


def _touched(path: Path) -> bool:
    """Whether the file is there; notes that it was used."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
