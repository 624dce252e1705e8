"""What audio and video share when decord opens a container: quiet logs and errors in the user's
terms.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import decord

from davss.errors import DavssError

decord.logging.set_level(decord.logging.QUIET)
_stderr_lock = threading.Lock()


def require_file(path: str | Path) -> Path:
    """Path of a non-empty file that may be read; raises DavssError naming it otherwise."""
    path = Path(path)
    if not path.is_file():
        raise DavssError(f"{path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise DavssError(f"{path}: the file is empty (0 bytes); copy it again")
    try:
        open(path, "rb").close()
    except OSError as error:
        raise DavssError(
            f"{path}: cannot be read ({error.strerror}); mend its permissions"
        ) from None
    return path


@contextlib.contextmanager
def decoding(path: Path, stream: str) -> Iterator[None]:
    """Run decord on `path`; whatever it raises becomes one DavssError, and its C++ log stays
    silent.
    """
    try:
        with _silent_stderr():
            yield
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, IndexError) as error:
        raise DavssError(_explain(path, stream, str(error))) from None


def _explain(path: Path, stream: str, message: str) -> str:
    if "find audio stream" in message or "cannot find video stream" in message:
        return f"{path}: has no {stream} stream; choose a file with one"
    return f"{path}: cannot decode its {stream} (truncated or corrupt?); copy or encode it again"


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    # decord's C++ logger writes to file descriptor 2 whatever its log level; the exception says it
    # all.
    with _stderr_lock:
        sys.stderr.flush()
        saved = os.dup(2)
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(sink, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(sink)
