"""Work shared among processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from davss.errors import DavssError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    num_processes: int,
    description: str,
    unit: str = "trial",
    worth: int = 1,
) -> Iterator[Result]:
    """`work` on every item, in their order, in as many processes as are worth their start: one for
    every `worth` items. Progress is shown. DavssError where one of them is killed.
    """
    count = min(num_processes, -(-len(items) // worth))
    bar = partial(tqdm, total=len(items), desc=description, unit=unit)
    if count <= 1:
        yield from bar(map(work, items))
        return
    # Not fork: a forked child of a process that has used torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the children: one core each
    try:
        with ProcessPoolExecutor(count, context) as pool:
            yield from bar(pool.map(work, items, chunksize=min(4, worth)))
    except BrokenProcessPool:
        raise DavssError(
            f"{description}: one of {count} processes was killed (out of memory?); free some "
            "memory and run it again"
        ) from None
