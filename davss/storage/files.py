"""Files and folders of this machine: they appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from davss.errors import StorageError


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a path to write a file or directory at; it becomes `path` on success, else vanishes.

    Raises StorageError when the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with full_disk_explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.exists():
                _open_to_others(temporary)
                _replace(temporary, path)
    finally:
        _remove(temporary)


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turn the system's error of a disk that is full, or may not be written to, into a StorageError
    that names `path`.
    """
    try:
        yield
    except Exception as error:
        code = getattr(error, "errno", None)
        if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            assert isinstance(error, OSError)
            raise StorageError(
                f"{error.filename or path}: {error.strerror}; correct the path or its permissions "
                "(what stages keep lies in $DAVSS_STORAGE)"
            ) from None
        full = code in (errno.ENOSPC, errno.EDQUOT)
        if not full and "No space left on device" not in str(error):  # safetensors has no errno
            raise
        raise StorageError(
            f"{path}: no space left on this disk; free some and run it again"
        ) from None


def _open_to_others(path: Path) -> None:
    """Give files that are for their owner alone, as safetensors writes them, the permissions that
    any new file here gets: folders are shared.
    """
    files = [file for file in (path, *path.rglob("*")) if file.is_file()]
    if closed := [file for file in files if not file.stat().st_mode & 0o077]:
        probe = path.with_name(f".{uuid.uuid4().hex[:8]}")
        probe.touch()
        mode = probe.stat().st_mode & 0o777
        probe.unlink()
        for file in closed:
            file.chmod(mode)


def _replace(new: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(new, path)
        return
    # A directory cannot be replaced in one step unless it is empty: move the old one aside first.
    old = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    os.replace(path, old)
    os.replace(new, path)
    shutil.rmtree(old)


def _remove(path: Path) -> None:
    with suppress(OSError):  # what could not be written need not be removed
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
