"""What the runner itself costs: a plan of trials with a separator that only waits.

    python -m benchmarks.runner [--trials 10000] [--milliseconds 20] [--actors 2]

Prints the share of the pool's ideal throughput (all actors waiting all the time), with and without
the start of the actors, what that took, the driver's peak memory, the time until a finished plan is
known to be so, and what scoring gains by several processes.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from davss.config import SamplerConfig
from davss.evaluation import runner
from davss.evaluation.mixtures import Mixture
from davss.evaluation.scoring import score_plan
from davss.evaluation.trials import Arm, Trial, cross

RATE, SAMPLES = 8000, 8000
ARM = Arm("waiting", "none", SamplerConfig(num_steps=1))


class Library:
    """A second of noise for every key."""

    def render(self, row: dict[str, Any]) -> Mixture:
        """One voice and one noise."""
        rng = np.random.default_rng(row["seed"])
        speech, noise = rng.standard_normal((2, SAMPLES)).astype(np.float32)
        return Mixture(row["key"], speech + noise, speech[None], noise, None, RATE)


@dataclass
class Waiting:
    """A separator that gives every source half of the mixture after a while."""

    arm: Arm
    device: str
    seconds: float = 0.0
    dtype: torch.dtype = torch.float32

    def __call__(self, mixture: torch.Tensor, **_: Any) -> SimpleNamespace:
        """Waits for every mixture of the batch."""
        time.sleep(self.seconds * len(mixture))
        return SimpleNamespace(
            speech=mixture[:, None] / 2,
            noise=mixture / 2,
            trace={},
            errors=[None] * len(mixture),
            num_evaluations=1,
        )


@dataclass(frozen=True)
class Make:
    """What the job makes separators with."""

    seconds: float

    def __call__(self, arm: Arm, device: str) -> Waiting:
        """A separator that waits so long."""
        return Waiting(arm, device, self.seconds)


def plan(count: int) -> list[Trial]:
    """So many trials of one arm."""
    about = {"num_speakers": 1, "pool": ["off-screen"], "condition": "none", "sir_db": 0.0}
    about |= {"seconds": SAMPLES / RATE, "sample_rate": RATE, "snr_db": 0.0}
    return cross([ARM], [{"key": f"k-{n:05d}", "seed": n, **about} for n in range(count)])


def main(argv: list[str] | None = None) -> None:
    """Run the plan, run it again, score some of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--trials", type=int, default=10_000)
    add("--milliseconds", type=float, default=20.0, help="that a trial waits")
    add("--batch-size", type=int, default=8)
    add("--actors", type=int, default=2)
    add("--scored", type=int, default=400, help="trials scored by one process and by several")
    arguments = parser.parse_args(argv)
    trials, seconds = plan(arguments.trials), arguments.milliseconds / 1000
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        folders = {ARM.name: storage / "estimates"}
        job = runner.Job(Library(), Make(seconds), storage, folders)  # type: ignore[arg-type]
        began = time.perf_counter()
        runner.run_plan(trials[: arguments.actors], job, 1, arguments.actors)
        start = time.perf_counter() - began
        began = time.perf_counter()
        records = runner.run_plan(trials, job, arguments.batch_size, arguments.actors)
        wall = time.perf_counter() - began
        ideal = arguments.trials * seconds / arguments.actors
        stamps = sorted(path.stat().st_mtime for path in storage.rglob("*.json"))
        stamps = stamps[arguments.actors + arguments.batch_size :]  # once all are at work
        steady = len(stamps) * seconds / arguments.actors / max(stamps[-1] - stamps[0], 1e-9)
        began = time.perf_counter()
        runner.run_plan(trials, job, arguments.batch_size, arguments.actors)
        again = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{len(records)} trials, {int(records.error.notna().sum())} failed")
        print(f"start of Ray with {arguments.actors} trials: {start:.1f} s")
        print(
            f"{wall:.1f} s where waiting alone is {ideal:.1f} s: {ideal / wall:.1%} of ideal, "
            f"{steady:.1%} between the first and the last record"
        )
        print(f"finished plan known to be so after {again:.1f} s; driver's peak {peak:.2f} GB")
        some = trials[: arguments.scored], records[: arguments.scored]
        times = []
        for count in (1, arguments.actors):
            began = time.perf_counter()
            score_plan(*some, job.library, storage, num_processes=count)
            times.append(time.perf_counter() - began)
        gain = times[0] / times[1]
        print(
            f"scoring {len(some[0])} trials: {times[0]:.1f} s, in {arguments.actors} processes "
            f"{times[1]:.1f} s, {gain:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
