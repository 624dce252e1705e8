"""Does decoding leak? One two-second clip is read again and again in one process.

    python -m benchmarks.leak [--clips 5000]

Prints by how much the process grew over the second half, as MB per 100,000 clips. The first half is
left out: caches and pools fill in it. Workers of the shards stage are new processes every
`CALLS_PER_PROCESS` calls of `PIECE` clips, so what a worker may gain is printed beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from davss.corpora.demo import write_mp4
from davss.media.audio import read_audio
from davss.media.video import read_video
from davss.shards.plan import PIECE
from davss.shards.tasks import CALLS_PER_PROCESS

POINTS = 20  # times that memory is looked at


def leak(path: Path, clips: int) -> float:
    """Growth in bytes per clip while `path` is read `clips` times, sound and picture: the slope of
    a line through the resident memory of the second half.
    """
    process = psutil.Process()
    every = max(1, clips // POINTS)
    sizes = []
    for number in range(1, clips + 1):
        read_audio(path)
        read_video(path)
        if number % every == 0:
            sizes.append((number, process.memory_info().rss))
    late = np.array([size for size in sizes if size[0] >= clips / 2], float)
    return float(np.polyfit(late[:, 0], late[:, 1], 1)[0])


def write_clip(path: Path) -> None:
    """Two seconds of moving noise, 224×224, with a noisy sound."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (50, 28, 28, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    write_mp4(path, frames, 0.1 * rng.standard_normal(32_000))


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.leak", description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=5000)
    arguments = parser.parse_args(argv)
    if arguments.clips < 2 * POINTS:
        sys.exit(f"--clips {arguments.clips}: give {2 * POINTS} or more")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path)
        growth = leak(path, arguments.clips)
    worker = CALLS_PER_PROCESS * PIECE
    print(
        f"{arguments.clips} clips: {growth * 100_000 / 1e6:+.1f} MB per 100,000 clips; a worker "
        f"ends after {worker} clips: {growth * worker / 1e6:+.1f} MB"
    )


if __name__ == "__main__":
    main()
