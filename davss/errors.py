"""The one exception users see, and how programs end with it."""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

EXTRA = "install davss with its extra: `pip install '.[workflow]'` in the clone"


class DavssError(Exception):
    """Bad input or a missing piece: a sentence naming the file or key, and how to fix it.

    Every other exception is a defect of davss and keeps its stack trace.
    """


class StorageError(DavssError):
    """A disk or bucket that cannot be read or written at present, whatever the file."""


def require_packages(*names: str) -> None:
    """End the program with one line unless these packages of the extra are installed."""
    for name in names:
        if find_spec(name) is None:
            print(f"error: this needs the Python package {name}; {EXTRA}", file=sys.stderr)
            sys.exit(2)


@contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Exit with one line and status 2 for what the user can fix, with 130 on Ctrl-C.

    Output that nobody reads any more, as in `davss info PRIOR | head -1`, ends it with 141 and
    without a word, as in other programs. Characters that the terminal cannot show are escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except DavssError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "davss").partition(".")[0] in ("davss", "pipelines", "cluster"):
            raise
        print(f"error: this needs the Python package {error.name}; {EXTRA}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if _stdout_is_read():  # then it was another pipe or connection
            raise
        _drop_stdout()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if error.filename is None:
            _drop_stdout()
        where = error.filename or "standard output or a temporary file"
        print(f"error: {where}: no space left on this disk; free some", file=sys.stderr)
        sys.exit(2)


def _drop_stdout() -> None:
    """Discard what is left to write: Python flushes once more when it ends."""
    with suppress(OSError):  # it may be something in memory
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stdout_is_read() -> bool:
    """Whether standard output is anything but a pipe that nobody reads any more."""
    try:
        out = sys.stdout.fileno()
    except OSError:  # replaced by something in memory
        return True
    poll = select.poll()
    poll.register(out, 0)  # errors are told unasked
    return not any(event & select.POLLERR for _, event in poll.poll(0))
