"""The one exception users see, and how programs end with it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class DavssError(Exception):
    """Bad input or a missing piece: a sentence naming the file or key, and how to mend it.

    Every other exception is a defect of davss and keeps its stack trace.
    """


class StorageError(DavssError):
    """A disk or bucket that takes or gives nothing just now: the fault of no single file."""


@contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Exit with one line and status 2 for what the user can mend, with 130 on Ctrl-C."""
    try:
        yield
    except DavssError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
