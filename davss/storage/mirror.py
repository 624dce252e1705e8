"""A folder that is written bit by bit on one machine after another, and kept in a bucket."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from davss.storage.store import Store


@dataclass(frozen=True)
class Mirror:
    """The folder `folder` of whichever machine works on it, kept as `name` in `store`; can be
    pickled.
    """

    store: Store
    name: str
    folder: Path

    def send(self, name: str) -> None:
        """Copy one file of the folder to the store, in the place of what is there."""
        with tempfile.TemporaryDirectory(prefix="davss-") as scratch:
            copy = Path(scratch, "copy")
            shutil.copyfile(self.folder / name, copy)  # `put` moves, and others append meanwhile
            self.store.put(copy, f"{self.name}/{name}")

    def receive(self, name: str, path: Path | None = None) -> bool:
        """Copy one file from the store to the folder, or to `path`; whether it is there."""
        if not self.has(name):
            return False
        self.store.fetch(f"{self.name}/{name}", path or self.folder / name)
        return True

    def has(self, name: str) -> bool:
        """Whether the store has this file."""
        return self.store.stat(f"{self.name}/{name}") is not None

    def remove(self, name: str) -> None:
        """Remove a file, or a folder, from the store."""
        self.store.remove(f"{self.name}/{name}")

    def names(self, below: str) -> list[str]:
        """Names of the store's files in the folder `below`, relative to that, sorted."""
        start = f"{self.name}/{below}/"
        return sorted(entry.name.removeprefix(start) for entry in self.store.list(start))

    def pull(self, below: str) -> None:
        """Fetch what the folder `below` lacks; its files are named by their contents."""
        for name in self.names(below):
            if not (self.folder / below / name).exists():
                self.store.fetch(f"{self.name}/{below}/{name}", self.folder / below / name)

    def push(self, below: str) -> None:
        """Send what the store lacks of the folder `below`, files named by their contents; hidden
        ones stay here.
        """
        known = set(self.names(below))
        for path in sorted((self.folder / below).rglob("*")):
            name = path.relative_to(self.folder / below).as_posix()
            if path.is_file() and not path.name.startswith(".") and name not in known:
                self.send(f"{below}/{name}")
