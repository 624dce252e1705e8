"""How many cores this process may use: Python counts those of the machine, whatever a container
was given of their time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CONTROL = Path("/sys/fs/cgroup")
MINE = Path("/proc/self/cgroup")


def count() -> int:
    """Cores that this process is bound to, or fewer where its control groups limit its time, as
    `docker run --cpus 2` and Kubernetes do.
    """
    bound = len(os.sched_getaffinity(0))
    return max(1, min([bound, *(math.ceil(limit) for limit in _limits())]))


def _limits() -> Iterator[float]:
    """The cores' worth of time of each control group around this process."""
    for folder in _folders("", CONTROL):  # version 2
        yield from _ratio(_words(folder / "cpu.max"))
    for folder in _folders("cpu", CONTROL / "cpu"):  # version 1
        quota, period = (_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        yield from _ratio([*quota, *period])


def _folders(controller: str, root: Path) -> list[Path]:
    """The folder of this process' group and all above it, where the system shows them."""
    for line in _lines(MINE):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = root / path.lstrip("/")
            return [own, *(above for above in own.parents if above.is_relative_to(root))]
    return [root]


def _ratio(words: list[str]) -> Iterator[float]:
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        yield int(words[0]) / int(words[1])


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
