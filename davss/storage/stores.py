"""Which store is meant: a folder of this machine, or `s3://bucket/prefix`."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from davss.errors import DavssError
from davss.storage.files import full_disk_explained, publish, sha256
from davss.storage.store import S3, Entry, Store

VARIABLE = "DAVSS_STORAGE"
_NEARLY_A_BUCKET = re.compile("s3:", re.IGNORECASE)


@dataclass(frozen=True)
class LocalStore:
    """A folder of this machine, or of a file system that it shares with others."""

    root: Path

    def locate(self, name: str) -> str:
        """See Store."""
        return str(self.root / name)

    def stat(self, name: str) -> Entry | None:
        """See Store."""
        path = self.root / name
        try:
            status = path.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            return None
        return Entry(name, status.st_size, str(status.st_mtime_ns))

    def open(self, name: str) -> BinaryIO:
        """See Store."""
        return open(self.local(name), "rb")

    def local(self, name: str) -> Path:
        """See Store."""
        path = self.root / name
        if not path.is_file():
            raise DavssError(f"{path}: no such file; check the path")
        return path

    def fetch(self, name: str, path: Path) -> None:
        """See Store."""
        with publish(path) as temporary:
            shutil.copyfile(self.local(name), temporary)

    def put(self, path: Path, name: str) -> None:
        """See Store."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.stat().st_dev == target.parent.stat().st_dev:
            os.replace(path, target)
            return
        with publish(target) as temporary:
            shutil.copyfile(path, temporary)
        path.unlink()

    def list(self, folder: str) -> Iterator[Entry]:
        """See Store."""
        for directory, _, files in os.walk(self.root / folder):
            for file in files:
                name = (Path(directory) / file).relative_to(self.root).as_posix()
                entry = self.stat(name)
                if entry is not None:  # not removed meanwhile
                    yield entry

    def holds(self, name: str, digest: str) -> bool:
        """See Store."""
        path = self.root / name
        return path.is_file() and sha256(path) == digest

    def remove(self, name: str) -> None:
        """See Store."""
        path = self.root / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def scratch(self, folder: str) -> Iterator[Path]:
        """See Store."""
        # On the same disk, so that putting a file there is one step; a run that was killed leaves
        # its files where `remove` finds them.
        with full_disk_explained(self.root):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.root / folder) as path:
                yield Path(path)


def open_store(location: str | Path | Store) -> Store:
    """The store of a folder or an `s3://bucket/prefix`."""
    if not isinstance(location, str | Path):
        return location
    text = str(location)
    if text.startswith(S3):
        from davss.storage.s3 import S3Store

        return S3Store.of_url(text)
    if "://" in text:
        raise DavssError(f"{text}: neither a folder nor s3://bucket/prefix; correct it")
    return LocalStore(Path(location))


def open_storage() -> Store:
    """What $DAVSS_STORAGE names, a folder or `s3://bucket/prefix`; ./storage by default. Only
    pipeline stages ask for it.

    Raises DavssError where no folder can be.
    """
    root = os.environ.get(VARIABLE) or "storage"
    if root != root.strip():  # as of an env file with the line ends of Windows
        raise DavssError(f"{VARIABLE}={root!a}: a blank or line break at its end; remove it")
    if "://" in root:
        return open_store(root)
    if _NEARLY_A_BUCKET.match(root):
        raise DavssError(f"{VARIABLE}={root}: neither a folder nor s3://bucket/prefix; correct it")
    path = _workspace() / os.path.expanduser(root)  # no shell has, where it was quoted
    try:
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except PermissionError as error:
        raise DavssError(
            f"{VARIABLE}={root}: {error.filename} may not be read; give a folder of your own"
        ) from None
    if not nearest.is_dir():
        raise DavssError(f"{VARIABLE}={root}: {nearest} is a file; give a folder")
    return LocalStore(path.resolve())


def _workspace() -> Path:
    """From where relative paths are meant: `dvc exp run --temp` and `--queue` run stages in a copy
    of the repository without its storage, below its .dvc/tmp/exps.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if folder.parts[-4:-1] == (".dvc", "tmp", "exps"):
            return folder.parents[3]
    return Path()
