"""Time of a training step by switch, and with two workers against one.

    python -m benchmarks.switches [switches] [workers] [--steps 2] [--rounds 6]

Each setting has processes of its own, with one thread; the settings take turns. Times are medians
of steps after a warm-up: neither start-up nor compiling counts, nor does the loader. Two workers
share the batch of one, through DDP and gloo as in a run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import distributed, nn

from benchmarks.training import DIFFUSION, RATE, SMALL
from davss.allocator import keep_freed_memory
from davss.config import TrainingConfig
from davss.diffusion.prior import NoisePrior, PriorInfo
from davss.shards.loader import Batch
from davss.training.checkpoint import TrainingState
from davss.training.ema import Ema
from davss.training.job import Worker
from davss.training.loop import Objective, step

DEFAULT = TrainingConfig(global_batch_size=4)
SWITCHES = {
    "default": DEFAULT,
    "fused optimiser off": replace(DEFAULT, fused_optimiser=False),
    "channels_last off": replace(DEFAULT, channels_last=False),
    "bfloat16": replace(DEFAULT, precision="bfloat16"),
    "compile": replace(DEFAULT, compile=True),
}
running: Iterator[None]  # the loop of this process


def begin(config: TrainingConfig, crop: int, worker: Worker, port: int) -> None:
    """Make this process a worker of a setting."""
    global running
    torch.set_num_threads(1)
    keep_freed_memory()
    if worker.world_size > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        distributed.init_process_group("gloo", rank=worker.rank, world_size=worker.world_size)
    running = steps(config, crop, worker)


def steps(config: TrainingConfig, crop: int, worker: Worker) -> Iterator[None]:
    """Steps on one batch of noise, as the loop of training takes them."""
    torch.manual_seed(0)
    prior = NoisePrior(PriorInfo(RATE, SMALL, DIFFUSION)).train()
    if config.channels_last:
        prior = prior.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(prior.parameters(), fused=config.fused_optimiser)
    state = TrainingState(prior, optimiser, Ema(prior, config.ema_decay), None)
    if config.compile:
        prior.compile()
    reduced = config.precision == "bfloat16"
    objective: nn.Module = Objective(prior, DIFFUSION, torch.bfloat16 if reduced else torch.float32)
    if worker.world_size > 1:
        objective = nn.parallel.DistributedDataParallel(objective)
    batch = make_batch(config.global_batch_size // worker.world_size, crop)
    while True:
        step(objective, state, [batch], 1e-4, config, worker)
        yield


def timed(count: int) -> list[float]:
    """Seconds of each of `count` steps of this process."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        next(running)
        seconds.append(time.perf_counter() - began)
    return seconds


def make_batch(size: int, crop: int) -> Batch:
    """`size` crops of noise of `crop` samples at the level of training."""
    audio, noise = DIFFUSION.sigma_data * torch.randn(size, crop), torch.randn(size, crop)
    uniforms = torch.rand(size, 2, dtype=torch.float64)
    has_lips = torch.zeros(size, dtype=torch.bool)
    return Batch(audio, None, has_lips, ["clip"] * size, noise, uniforms)


def measure(
    settings: Sequence[tuple[TrainingConfig, int]], crop: int, count: int, rounds: int
) -> list[float]:
    """Median seconds of a step of each (config, number of workers), which take turns."""
    context = multiprocessing.get_context("spawn")
    groups = []
    for config, size in settings:
        port, workers = free_port(), [Worker(rank, size) for rank in range(size)]
        groups.append(
            [ProcessPoolExecutor(1, context, begin, (config, crop, w, port)) for w in workers]
        )
    seconds: list[list[float]] = [[] for _ in settings]
    for number in range(rounds + 1):
        for times, pools in zip(seconds, groups, strict=True):
            waiting = [pool.submit(timed, count) for pool in pools]
            took = [each.result() for each in waiting][0]
            if number:  # a first round warms up
                times.extend(took)
    for pools in groups:
        for pool in pools:
            pool.shutdown()
    return [float(np.median(each)) for each in seconds]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rows of the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("parts", nargs="*", help="switches, workers (default: both)")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn (default: 2)")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each (default: 6)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a crop (default: 2)")
    parser.add_argument("--only", nargs="+", choices=SWITCHES, help="switches (default: all)")
    arguments = parser.parse_args(argv)
    parts = arguments.parts or ["switches", "workers"]
    if unknown := set(parts) - {"switches", "workers"}:
        parser.error(f"{', '.join(unknown)}: give switches or workers")
    crop, turn = round(arguments.seconds * RATE), (arguments.steps, arguments.rounds)
    if "switches" in parts:
        names = list(dict.fromkeys(["default", *(arguments.only or SWITCHES)]))
        took = measure([(SWITCHES[name], 1) for name in names], crop, *turn)
        for name, seconds in zip(names, took, strict=True):
            print(f"| {name} | {seconds:.3f} s/step | {took[0] / seconds:.2f} × |")
    if "workers" in parts:
        one, two = measure([(DEFAULT, 1), (DEFAULT, 2)], crop, *turn)
        print(f"| 1 worker, one thread | {one:.3f} s/step | 1.00 × |")
        print(f"| 2 workers, one thread each | {two:.3f} s/step | {one / two:.2f} × |")


if __name__ == "__main__":
    main()
