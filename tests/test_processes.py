"""Work shared among processes."""

import os

import pytest

from davss.errors import DavssError
from davss.processes import in_processes


def test_a_process_that_is_killed_is_said():
    with pytest.raises(DavssError, match=r"^score: one of 2 processes was killed .*run it again$"):
        list(in_processes(os._exit, [9, 9], 2, "score"))
