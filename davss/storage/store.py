"""What a store is: files under names, relative paths with `/`, each whole or not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

S3 = "s3://"


@dataclass(frozen=True)
class Entry:
    """One file of a store: name, bytes, and a text that changes whenever the file is written."""

    name: str
    size: int
    version: str


class Store(Protocol):
    """Files under names; DavssError names what cannot be read or written, and the mend."""

    def locate(self, name: str) -> str:
        """Path or URL of `name`, as people know it."""
        ...

    def stat(self, name: str) -> Entry | None:
        """What is known of `name` without reading it; None where there is nothing."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The bytes of `name` from first to last."""
        ...

    def local(self, name: str) -> Path:
        """A file of this machine with the contents of `name`; not to be changed."""
        ...

    def fetch(self, name: str, path: Path) -> None:
        """Copy `name` to the file `path` of this machine."""
        ...

    def put(self, path: Path, name: str) -> None:
        """Move the file `path` of this machine to `name`, in the place of what is there."""
        ...

    def list(self, folder: str) -> Iterator[Entry]:
        """All files below `folder`, in no particular order; none where there is no such folder."""
        ...

    def holds(self, name: str, digest: str) -> bool:
        """Whether `name` is there with contents of this SHA-256."""
        ...

    def remove(self, name: str) -> None:
        """Remove the file `name`, or all files below the folder `name`, if there are any."""
        ...

    def scratch(self, folder: str) -> AbstractContextManager[Path]:
        """A folder of this machine for files on their way to `folder`; gone with the block."""
        ...
