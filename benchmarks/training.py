"""Speed of training: the step against a plain loop, by switch, with two workers; loader.

    python -m benchmarks.training [step] [loader] [switches] [workers] [--rounds 6]

The rows go to docs/benchmarks.md. The plain loop is what the repositories of this method's lineage
do, written out: float32, default memory layout, the network layer by layer, whole clips decoded and
then cropped, `Adam`, an average parameter by parameter. What is compared takes turns, each in
processes of its own with one thread; times are medians of steps after a warm-up. Switches and
workers are fed one batch of noise; two workers share it, through DDP and gloo as in a run.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch import distributed, nn

from benchmarks.drawn import as_drawn
from benchmarks.shards import write
from davss.config import DiffusionConfig, NetworkConfig, TrainingConfig
from davss.diffusion.prior import NoisePrior, PriorInfo
from davss.networks.cpu import keep_freed_memory
from davss.shards.contract import decode, encode
from davss.shards.loader import Batch, Shard, training_loader
from davss.storage import LocalStore
from davss.training.checkpoint import TrainingState
from davss.training.ema import Ema
from davss.training.job import Worker
from davss.training.loop import Objective, step

PARTS = ("step", "loader", "switches", "workers")
RATE, SECONDS, CROP, CLIPS = 16_000, 8.0, 64_000, 64
DIFFUSION = DiffusionConfig(sigma_min=1e-4, sigma_max=1.0)
SMALL = NetworkConfig(nf=16, n_fft=254, fourier_scale=2.0)
DEFAULT = TrainingConfig(global_batch_size=4)
SWITCHES = {
    "default": DEFAULT,
    "fused optimiser off": replace(DEFAULT, fused_optimiser=False),
    "channels_last off": replace(DEFAULT, channels_last=False),
    "bfloat16": replace(DEFAULT, precision="bfloat16"),
    "compile": replace(DEFAULT, compile=True),
}


def write_shard(path: Path) -> Shard:
    """Clips of noise with a falling spectrum, as compressible as speech or less."""
    rng, samples = np.random.default_rng(0), []
    for number in range(CLIPS):
        white = rng.standard_normal(int(RATE * SECONDS))
        audio = np.convolve(white, 0.9 ** np.arange(40), "same") * 0.02
        meta = {"split": "train", "speaker": "s", "source": "s", "sample_rate": RATE}
        samples.append(encode(f"clip-{number:03d}", audio.clip(-1, 1), None, meta))
    return Shard(LocalStore(path.parent), path.name, write(samples, path))


def loader(shard: Shard, crop: int, batch: int, workers: int = 0) -> Iterator[Batch]:
    """Batches of training."""
    return training_loader(
        [shard], crop_samples=crop, sample_rate=RATE, batch_size=batch, seed=0, num_workers=workers
    )


def measure_loader(shard: Shard) -> None:
    """Audio seconds of crops per second, on one core, noise of the loss included."""
    batches = loader(shard, CROP, 16)
    next(batches)
    began = time.perf_counter()
    count = sum(len(batch.keys) for batch in islice(batches, 40))
    factor = count * CROP / RATE / (time.perf_counter() - began)
    print(f"| loader alone, crops of 4 s from clips of 8 s, one core | {factor:.0f} × real time |")


def plain_batches(shard: Shard, crop: int, batch: int) -> Iterator[torch.Tensor]:
    """Whole clips decoded, cropped and scaled, in the process of the training."""
    rng = np.random.default_rng(0)
    while True:
        crops = []
        for sample in webdataset.WebDataset(shard.store.locate(shard.name), shardshuffle=False):
            audio = decode(sample).audio
            audio = audio * (0.05 / np.sqrt(np.mean(np.square(audio))))
            start = int(rng.integers(len(audio) - crop + 1))
            crops.append(audio[start : start + crop])
            if len(crops) == batch:
                yield torch.from_numpy(np.stack(crops))
                crops = []


def plain_steps(shard: Shard, crop: int, batch: int) -> Iterator[float]:
    """The plain loop."""
    torch.manual_seed(0)
    prior = NoisePrior(PriorInfo(RATE, SMALL, DIFFUSION)).train()
    as_drawn(prior)
    average = copy.deepcopy(prior).requires_grad_(False)
    optimiser = torch.optim.Adam(prior.parameters(), lr=1e-4)
    low, high = DIFFUSION.sigma_min ** (1 / 10), DIFFUSION.sigma_max ** (1 / 10)
    for clean in plain_batches(shard, crop, batch):
        sigma = (high + torch.rand(batch) * (low - high)) ** 10
        noisy = clean + sigma[:, None] * torch.randn_like(clean)
        weight = (sigma**2 + 0.05**2) / (sigma * 0.05) ** 2
        loss = (weight[:, None] * (prior(noisy, sigma) - clean) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimiser.step()
        for old, new in zip(average.parameters(), prior.parameters(), strict=True):
            old.data.mul_(0.999).add_(new.data, alpha=0.001)
        loss.item()
        yield 0.0


def davss_steps(
    batches: Iterator[Batch], config: TrainingConfig, worker: Worker
) -> Iterator[float]:
    """The steps of davss; yields the seconds that each one waited for its batch."""
    torch.manual_seed(0)
    prior = NoisePrior(PriorInfo(RATE, SMALL, DIFFUSION)).train()
    if config.channels_last:
        prior = prior.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(prior.parameters(), fused=config.fused_optimiser)
    state = TrainingState(prior, optimiser, Ema(prior, config.ema_decay))
    if config.compile:
        prior.compile()
    reduced = config.precision == "bfloat16"
    objective: nn.Module = Objective(prior, DIFFUSION, torch.bfloat16 if reduced else torch.float32)
    if worker.world_size > 1:
        objective = nn.parallel.DistributedDataParallel(objective)
    while True:
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        step(objective, state, [batch], 1e-4, config, worker)
        yield waited


def fed_from_shards(shard: Shard, crop: int, batch: int) -> Iterator[float]:
    """The loop of davss with its loader."""
    keep_freed_memory()
    batches = loader(shard, crop, batch, workers=1)
    return davss_steps(batches, TrainingConfig(global_batch_size=batch), Worker())


def fed_with_noise(
    config: TrainingConfig, crop: int, worker: Worker, meeting: str
) -> Iterator[float]:
    """The loop of davss, or of one of its workers, on one batch of noise."""
    keep_freed_memory()
    if worker.world_size > 1:
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=worker.rank,
            world_size=worker.world_size,
        )
    size = config.global_batch_size // worker.world_size
    audio, noise = DIFFUSION.sigma_data * torch.randn(size, crop), torch.randn(size, crop)
    uniforms = torch.rand(size, 3, dtype=torch.float64)
    has_lips = torch.zeros(size, dtype=torch.bool)
    batch = Batch(audio, None, has_lips, ["clip"] * size, noise, uniforms)
    return davss_steps(repeat(batch), config, worker)


running: Iterator[float]  # the loop of this process


def begin(make: Callable[..., Iterator[float]], arguments: tuple[Any, ...]) -> None:
    """Make this process the one of a loop."""
    global running
    torch.set_num_threads(1)
    running = make(*arguments)


def timed(count: int) -> tuple[list[float], float]:
    """Seconds of each of `count` steps of this process's loop, and of waits for batches in all."""
    seconds, waited = [], 0.0
    for _ in range(count):
        began = time.perf_counter()
        waited += next(running)
        seconds.append(time.perf_counter() - began)
    return seconds, waited


def take_turns(
    loops: Sequence[Sequence[tuple[Callable[..., Iterator[float]], tuple[Any, ...]]]], rounds: int
) -> list[tuple[float, float]]:
    """Median seconds of a step, and share of it waited, of loops of one or more processes."""
    context = multiprocessing.get_context("spawn")
    # not daemons: the loader has processes of its own
    groups = [[ProcessPoolExecutor(1, context, begin, each) for each in loop] for loop in loops]
    seconds: list[list[float]] = [[] for _ in loops]
    waits = [0.0 for _ in loops]
    for number in range(rounds + 1):
        for index, pools in enumerate(groups):
            waiting = [pool.submit(timed, 2) for pool in pools]
            took, waited = [each.result() for each in waiting][0]
            if number:  # a first round warms up
                seconds[index].extend(took)
                waits[index] += waited
    for pools in groups:
        for pool in pools:
            pool.shutdown()
    return [(float(np.median(s)), w / sum(s)) for s, w in zip(seconds, waits, strict=True)]


def measure_step(shard: Shard, rounds: int, batch: int = 4, crop: int = 32_000) -> None:
    """Both loops."""
    setting = (shard, crop, batch)
    (old, _), (new, wait) = take_turns(
        [[(plain_steps, setting)], [(fed_from_shards, setting)]], rounds
    )
    print(f"| plain loop, nf 16, batch {batch} × 2 s, one thread | {batch / old:.2f} samples/s |")
    print(f"| davss, the same | {batch / new:.2f} samples/s, {old / new:.2f} × |")
    print(f"| wait for the loader | {100 * wait:.2f} % of the step |")


def measure_switches(rounds: int, crop: int = 32_000) -> None:
    """The default, and each switch turned."""
    loops = [[(fed_with_noise, (config, crop, Worker(), ""))] for config in SWITCHES.values()]
    took = take_turns(loops, rounds)
    for name, (seconds, _) in zip(SWITCHES, took, strict=True):
        print(f"| {name} | {seconds:.3f} s/step | {took[0][0] / seconds:.2f} × |")


def measure_workers(meeting: Path, rounds: int, crop: int = 32_000) -> None:
    """One worker, and two that share its batch."""
    loops = [
        [
            (fed_with_noise, (DEFAULT, crop, Worker(rank, size), str(meeting)))
            for rank in range(size)
        ]
        for size in (1, 2)
    ]
    (one, _), (two, _) = take_turns(loops, rounds)
    print(f"| 1 worker, one thread | {one:.3f} s/step | 1.00 × |")
    print(f"| 2 workers, one thread each | {two:.3f} s/step | {one / two:.2f} × |")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rows of the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument("--rounds", type=int, default=6, help="turns of two steps (default: 6)")
    arguments = parser.parse_args(argv)
    parts = arguments.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: give {', '.join(PARTS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shard = write_shard(Path(folder) / "train-000000.tar")
        if "loader" in parts:
            measure_loader(shard)
        if "step" in parts:
            measure_step(shard, arguments.rounds)
        if "switches" in parts:
            measure_switches(arguments.rounds)
        if "workers" in parts:
            measure_workers(Path(folder) / "meeting", arguments.rounds)


if __name__ == "__main__":
    main()
