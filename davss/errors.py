"""The one exception users see, and how programs end with it."""

import errno
import io
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

# As NumPy, torch, CUDA, the system and its loader of libraries say that there is no memory.
NO_MEMORY = re.compile("[Oo]ut of memory|allocate memory|bad_alloc|failed to map segment")
NO_TEMPORARY = "No usable temporary directory"  # as tempfile says it
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What a disk or share answers that fails, whatever is asked of it, and a system out of files.
OUTAGES = frozenset(
    {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
    | {errno.EMFILE, errno.ENFILE, getattr(errno, "EREMOTEIO", errno.EIO)}
)
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class DavssError(Exception):
    """Bad input or a missing piece: a sentence naming the file or key, and how to fix it.

    Every other exception is a defect of davss and keeps its stack trace.
    """


class StorageError(DavssError):
    """A disk or bucket that cannot be read or written at present, whatever the file."""


def one_line(text: object) -> str:
    """Text in which line breaks and the like, which names of files may hold, are escaped."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def say(line: object) -> None:
    """Print one line to stderr."""
    print(one_line(line), file=sys.stderr)


def outage(error: OSError, path: object) -> StorageError:
    """What to say of one of OUTAGES, met at `path`."""
    mend = "the disk or share that it is on fails; see to that and run it again"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        mend = "allow more with `ulimit -n 4096`"
    return StorageError(f"{path}: {error.strerror}; {mend}")


@contextmanager
def outages_explained(path: object) -> Iterator[None]:
    """Turn the system's errors of a disk or share that fails into a StorageError that names
    `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in OUTAGES:
            raise
        raise outage(error, path) from None


@contextmanager
def memory_explained(path: object = "") -> Iterator[None]:
    """Turn the errors of whatever finds no memory into a StorageError that names `path`."""
    try:
        yield
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        if not isinstance(error, MemoryError) and not NO_MEMORY.search(str(error)):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise StorageError(
            f"{f'{path}: ' if path else ''}out of memory ({reason}); free some, allow this process "
            "more, or on a GPU take a smaller batch size"
        ) from None


class Terminated(KeyboardInterrupt):
    """SIGTERM, as `timeout`, `docker stop` and batch systems send it, or SIGHUP."""


def _terminate(*_: object) -> None:
    raise Terminated


def how_to_install(extra: str = "workflow") -> str:
    """What to do where a package of an extra is missing."""
    return f"install davss with its extra: `pip install '.[{extra}]'` in the clone"


def require_packages(*names: str, extra: str = "workflow") -> None:
    """End the program with one line unless these packages of an extra are installed."""
    for name in names:
        if find_spec(name) is None:
            say(f"error: this needs the Python package {name}; {how_to_install(extra)}")
            sys.exit(2)


@contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Exit with one line and status 2 for what the user can fix, with 130 on Ctrl-C, and with 143
    on SIGTERM and when the terminal is closed: what is temporary is removed then as well.

    Output that nobody reads any more, as in `davss info PRIOR | head -1`, ends it with 141 and
    without a word, as in other programs. Characters that the terminal cannot show are escaped.
    """
    _open_standard_streams()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores one
                signal.signal(number, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with memory_explained():
            yield
        sys.stdout.flush()
    except DavssError as error:
        say(f"error: {error}")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "davss").partition(".")[0] in ("davss", "pipelines", "cluster"):
            raise
        say(f"error: this needs the Python package {error.name}; {how_to_install()}")
        sys.exit(2)
    except Terminated:
        print("terminated", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if _stdout_is_read():  # then it was another pipe or connection
            raise
        _drop_stdout()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in OUTAGES and (error.filename or error.errno == errno.EIO):
            say(f"error: {outage(error, error.filename or 'a file')}")
            sys.exit(2)
        if error.errno in FORBIDDEN and error.filename:
            say(f"error: {error.filename}: {error.strerror}; correct its permissions")
            sys.exit(2)
        if NO_TEMPORARY in str(error):
            say(f"error: {error.strerror}; set TMPDIR to a folder that can be written to")
            sys.exit(2)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if error.filename is None:
            _drop_stdout()
        where = error.filename or "standard output or a temporary file"
        say(f"error: {where}: no space left on this disk; free some")
        sys.exit(2)


def require_current_folder() -> None:
    """DavssError in a folder that has been removed, in which libraries end without a reason."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise DavssError("the current folder has been removed; change to another") from None


def _open_standard_streams() -> None:
    """Put nothing in the place of those that were closed when the program started, as by `2>&-`:
    Python has None there, and the next file that is opened would get what libraries print.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


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
