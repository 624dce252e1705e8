"""Speed of training: the step against a plain loop, the loader alone, memory over many steps.

Run `python -m benchmarks.training [step] [loader] [memory]`; the rows go to docs/benchmarks.md.
The plain loop is what the repositories of this method's lineage do, written out: float32, default
memory layout, the network layer by layer, whole clips decoded and then cropped, `Adam`, an average
parameter by parameter. Both loops have a process of their own and take turns.
"""

from __future__ import annotations

import copy
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch
import webdataset

from benchmarks.drawn import as_drawn
from davss.allocator import keep_freed_memory
from davss.config import DiffusionConfig, NetworkConfig, TrainingConfig
from davss.diffusion.prior import NoisePrior, PriorInfo
from davss.shards.contract import decode, encode
from davss.shards.loader import Batch, Shard, training_loader
from davss.shards.members import places_of
from davss.storage import LocalStore
from davss.training.checkpoint import TrainingState
from davss.training.ema import Ema
from davss.training.job import Worker
from davss.training.loop import Objective, step
from davss.training.power_ema import PowerEma

RATE, SECONDS, CROP, CLIPS = 16_000, 8.0, 64_000, 64
DIFFUSION = DiffusionConfig(sigma_min=1e-4, sigma_max=1.0)
SMALL = NetworkConfig(nf=16, n_fft=254, fourier_scale=2.0)
TINY = NetworkConfig(nf=8, ch_mult=(1, 1), n_fft=126, hop_length=64)


def write_shard(path: Path) -> Shard:
    """Clips of noise with a falling spectrum, as compressible as speech or less."""
    rng, places = np.random.default_rng(0), []
    with webdataset.TarWriter(str(path), encoder=False, mtime=0) as writer:
        for number in range(CLIPS):
            white = rng.standard_normal(int(RATE * SECONDS))
            audio = np.convolve(white, 0.9 ** np.arange(40), "same") * 0.02
            meta = {"split": "train", "speaker": "s", "source": "s", "sample_rate": RATE}
            sample = encode(f"clip-{number:03d}", audio.clip(-1, 1), None, meta)
            places.append(list(places_of(sample, writer.tarstream.offset).values()))
            writer.write(sample)
    return Shard(LocalStore(path.parent), path.name, np.array(places))


def loader(shard: Shard, crop: int, batch: int, **more: int) -> Iterator[Batch]:
    """Batches of training, without loader workers unless `more` says so."""
    return training_loader(
        [shard], crop_samples=crop, sample_rate=RATE, batch_size=batch, seed=0, **more
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


def plain_steps(shard: Shard, crop: int, batch: int) -> Iterator[None]:
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
        yield


def davss_steps(
    batches: Iterator[Batch], network: NetworkConfig, config: TrainingConfig, waits: list[float]
) -> Iterator[None]:
    """The steps of davss; `waits` takes the seconds that each one waited for its batch."""
    torch.manual_seed(0)
    prior = NoisePrior(PriorInfo(RATE, network, DIFFUSION)).train()
    prior = prior.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(prior.parameters(), fused=config.fused_optimiser)
    tracks = PowerEma(prior, config.ema_sigma_rels) if config.ema_sigma_rels else None
    state = TrainingState(prior, optimiser, Ema(prior, config.ema_decay), tracks)
    objective = Objective(prior, DIFFUSION)
    while True:
        began = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - began)
        step(objective, state, [batch], 1e-4, config, Worker())
        yield


running: Iterator[None]  # the loop of this process, and what its steps waited for batches
waits: list[float] = []


def begin(ours: bool, shard: Shard, crop: int, batch: int) -> None:
    """Make this process the one of a loop."""
    global running
    torch.set_num_threads(1)
    if ours:
        keep_freed_memory()
        config = TrainingConfig(global_batch_size=batch)
        running = davss_steps(loader(shard, crop, batch, num_workers=1), SMALL, config, waits)
    else:
        running = plain_steps(shard, crop, batch)


def timed(count: int) -> tuple[list[float], float]:
    """Seconds of each of `count` steps of this process's loop, and of waits for batches in all."""
    before, seconds = sum(waits), []
    for _ in range(count):
        began = time.perf_counter()
        next(running)
        seconds.append(time.perf_counter() - began)
    return seconds, sum(waits) - before


def measure_step(shard: Shard, batch: int = 4, crop: int = 32_000, rounds: int = 6) -> None:
    """Both loops in turn, two steps each, on one thread; medians."""
    context = multiprocessing.get_context("spawn")
    setting = (shard, crop, batch)
    # not daemons: the loader has processes of its own
    pools = [ProcessPoolExecutor(1, context, begin, (ours, *setting)) for ours in (False, True)]
    seconds: tuple[list[float], list[float]] = ([], [])
    waited = 0.0
    for number in range(rounds + 1):
        for times, pool in zip(seconds, pools, strict=True):
            took, waited_now = pool.submit(timed, 2).result()
            if number:  # a first round warms up
                times.extend(took)
                waited += waited_now
    for pool in pools:
        pool.shutdown()
    old, new = (float(np.median(each)) for each in seconds)
    wait = waited / sum(seconds[1])
    print(f"| plain loop, nf 16, batch {batch} × 2 s, one thread | {batch / old:.2f} samples/s |")
    print(f"| davss, the same | {batch / new:.2f} samples/s, {old / new:.2f} × |")
    print(f"| wait for the loader | {100 * wait:.2f} % of the step |")


def measure_memory(shard: Shard, count: int = 2000) -> None:
    """Resident memory of the process at 500 steps and at the end."""
    config = TrainingConfig(global_batch_size=2)
    steps = davss_steps(loader(shard, 1600, 2), TINY, config, [])
    sizes = []
    for number in range(1, count + 1):
        next(steps)
        if number in (500, count):
            sizes.append(psutil.Process().memory_info().rss / 2**20)
    print(
        f"| memory after 500 and {count} steps, tiny network | {sizes[0]:.1f}, {sizes[1]:.1f} MiB |"
    )


def main() -> None:
    """Print the rows of the table."""
    parts = sys.argv[1:] or ["step", "loader", "memory"]
    with tempfile.TemporaryDirectory() as folder:
        shard = write_shard(Path(folder) / "train-000000.tar")
        if "loader" in parts:
            torch.set_num_threads(1)
            measure_loader(shard)
        if "step" in parts:
            measure_step(shard)
        if "memory" in parts:
            measure_memory(shard)


if __name__ == "__main__":
    main()
