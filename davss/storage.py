"""Where bulky or resumable things lie, and how files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from davss.errors import DavssError

VARIABLE = "DAVSS_STORAGE"


def storage_root() -> Path:
    """Root of bulk storage: $DAVSS_STORAGE, or ./storage; only pipeline stages ask for it."""
    root = os.environ.get(VARIABLE) or "storage"
    if "://" in root:
        raise DavssError(f"{VARIABLE}={root}: only local paths are supported; mount the bucket")
    return Path(root)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def code_digests(modules: Iterable[ModuleType]) -> list[str]:
    """SHA-256 of the source of modules: results kept in storage are not reused by other code."""
    return [sha256(Path(str(module.__file__))) for module in modules]


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a path to write a file or directory at; it becomes `path` on success, else vanishes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        if temporary.exists():
            _replace(temporary, path)
    finally:
        _remove(temporary)


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
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
