"""Speed of training: the step against a plain loop, and the loader alone.

    python -m benchmarks.training [step] [loader] [--rounds 6]

The rows go to docs/benchmarks.md. The plain loop is what the repositories of this method's lineage
do, written out: float32, default memory layout, the network layer by layer, whole clips decoded and
then cropped, `Adam`, an average parameter by parameter. The two take turns, each in a process of
its own with one thread; times are medians of steps after a warm-up.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import webdataset

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

PARTS = ("step", "loader")
RATE, SECONDS, CROP, CLIPS = 16_000, 8.0, 64_000, 64
DIFFUSION = DiffusionConfig(sigma_min=1e-4, sigma_max=1.0)
SMALL = NetworkConfig(nf=16, n_fft=254, fourier_scale=2.0)


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


def davss_steps(shard: Shard, crop: int, batch: int) -> Iterator[float]:
    """The loop of davss; yields the seconds that each step waited for its batch."""
    keep_freed_memory()
    torch.manual_seed(0)
    batches, config = loader(shard, crop, batch, workers=1), TrainingConfig(global_batch_size=batch)
    prior = NoisePrior(PriorInfo(RATE, SMALL, DIFFUSION)).train()
    prior = prior.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(prior.parameters(), fused=config.fused_optimiser)
    state = TrainingState(prior, optimiser, Ema(prior, config.ema_decay))
    objective = Objective(prior, DIFFUSION, torch.float32)
    while True:
        began = time.perf_counter()
        taken = next(batches)
        waited = time.perf_counter() - began
        step(objective, state, [taken], 1e-4, config, Worker())
        yield waited


running: Iterator[float]  # the loop of this process


def begin(make: Callable[..., Iterator[float]], shard: Shard, crop: int, batch: int) -> None:
    """Make this process the one of a loop."""
    global running
    torch.set_num_threads(1)
    running = make(shard, crop, batch)


def timed(count: int) -> tuple[list[float], float]:
    """Seconds of each of `count` steps of this process's loop, and of waits for batches in all."""
    seconds, waited = [], 0.0
    for _ in range(count):
        began = time.perf_counter()
        waited += next(running)
        seconds.append(time.perf_counter() - began)
    return seconds, waited


def measure_step(shard: Shard, rounds: int, batch: int = 4, crop: int = 32_000) -> None:
    """Both loops, each in a process of its own, two steps in turn after a first turn to warm up."""
    context, setting = multiprocessing.get_context("spawn"), (shard, crop, batch)
    with (
        # not daemons: the loader has processes of its own
        ProcessPoolExecutor(1, context, begin, (plain_steps, *setting)) as plain,
        ProcessPoolExecutor(1, context, begin, (davss_steps, *setting)) as davss,
    ):
        turns = [
            [pool.submit(timed, 2).result() for pool in (plain, davss)] for _ in range(rounds + 1)
        ]
    of_plain, of_davss = zip(*turns[1:], strict=True)
    old, new = (np.median([s for s, _ in loop]) for loop in (of_plain, of_davss))
    wait = sum(waited for _, waited in of_davss) / sum(sum(s) for s, _ in of_davss)
    print(f"| plain loop, nf 16, batch {batch} × 2 s, one thread | {batch / old:.2f} samples/s |")
    print(f"| davss, the same | {batch / new:.2f} samples/s, {old / new:.2f} × |")
    print(f"| wait for the loader | {100 * wait:.2f} % of the step |")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rows of the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("parts", nargs="*", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--rounds", type=int, default=6, help="turns of two steps (default: 6)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shard = write_shard(Path(folder) / "train-000000.tar")
        if "loader" in arguments.parts:
            measure_loader(shard)
        if "step" in arguments.parts:
            measure_step(shard, arguments.rounds)


if __name__ == "__main__":
    main()
