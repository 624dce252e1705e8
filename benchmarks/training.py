"""Speed of training: steps as a worker takes them, and the loader alone.

    python -m benchmarks.training [--steps 12]

One thread; steps are medians after a warm-up. The rows go to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import webdataset

from davss.config import DiffusionConfig, NetworkConfig, PriorConfig, TrainingConfig
from davss.diffusion.prior import NoisePrior, PriorInfo
from davss.networks.cpu import keep_freed_memory
from davss.shards.contract import encode
from davss.shards.loader import Batch, Shard, training_loader
from davss.shards.members import places_of
from davss.storage import LocalStore
from davss.storage.cache import Cache
from davss.training.checkpoint import TrainingState
from davss.training.ema import Ema
from davss.training.job import Worker
from davss.training.loop import Objective, step

RATE, SECONDS, CLIPS = 16_000, 8.0, 64
PACE = 100e6  # bytes a second of a bucket
SMALL = NetworkConfig(nf=16, n_fft=254, fourier_scale=2.0)


def write_shard(path: Path) -> Shard:
    """Clips of noise with a falling spectrum, as compressible as speech or less."""
    rng, places = np.random.default_rng(0), []
    with open(path, "wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as writer:
        for number in range(CLIPS):
            white = rng.standard_normal(int(RATE * SECONDS))
            audio = np.convolve(white, 0.9 ** np.arange(40), "same") * 0.02
            meta = {"split": "train", "speaker": "s", "source": "s", "sample_rate": RATE}
            sample = encode(f"clip-{number:03d}", audio.clip(-1, 1), None, meta)
            places.append(list(places_of(sample, writer.tarstream.offset).values()))
            writer.write(sample)
    return Shard(LocalStore(path.parent), path.name, np.array(places))


def loader(
    shards: Sequence[Shard], seconds: float, batch: int, workers: int, shuffle_buffer: int = 1000
) -> Iterator[Batch]:
    """Batches of training, of crops of so many seconds."""
    training = TrainingConfig(
        crop_seconds=seconds,
        global_batch_size=batch,
        loader_workers=workers,
        shuffle_buffer=shuffle_buffer,
    )
    return training_loader(shards, PriorConfig(training=training), RATE, seed=0)


def measure_loader(shard: Shard, seconds: float = 4.0) -> None:
    """Audio seconds of crops per second, on one core, noise of the loss included."""
    batches = loader([shard], seconds, 16, 0)
    next(batches)
    began = time.perf_counter()
    count = sum(len(batch.keys) for batch in islice(batches, 40))
    factor = count * seconds / (time.perf_counter() - began)
    print(f"| loader alone, crops of 4 s from clips of 8 s, one core | {factor:.0f} × real time |")


def measure_step(shard: Shard, steps: int, batch: int = 4) -> None:
    """Samples a second, and the share of a step that is a wait for its batch."""
    keep_freed_memory()
    torch.manual_seed(0)
    batches, config = loader([shard], 2.0, batch, 1), TrainingConfig(global_batch_size=batch)
    diffusion = DiffusionConfig(sigma_min=1e-4, sigma_max=1.0)
    prior = NoisePrior(PriorInfo(RATE, SMALL, diffusion)).train()
    prior = prior.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(prior.parameters(), fused=True)
    state = TrainingState(prior, optimiser, Ema(prior, config.ema_decay))
    objective, taken, waited = Objective(prior, diffusion), [], []
    for _ in range(steps + 2):
        began = time.perf_counter()
        clips = next(batches)
        waited.append(time.perf_counter() - began)
        step(objective, state, [clips], 1e-4, config, Worker())
        taken.append(time.perf_counter() - began)
    speed, wait = batch / np.median(taken[2:]), sum(waited[2:]) / sum(taken[2:])
    print(f"| step, nf 16, batches of {batch} × 2 s, one thread | {speed:.2f} samples/s |")
    print(f"| wait for the loader, one loader worker | {wait:.2%} of the step |")


@dataclass(frozen=True)
class Bucket(LocalStore):
    """A folder that is read as a bucket is, at PACE: every file is copied to a cache first."""

    cache: Cache = Cache()

    def local(self, name: str) -> Path:
        """See Store."""
        return self.cache.get(name, partial(self.fetch, name))

    def fetch(self, name: str, path: Path) -> None:
        """See Store."""
        time.sleep((self.root / name).stat().st_size / PACE)
        shutil.copyfile(self.root / name, path)


def measure_bucket(shard: Shard, steps: int = 96, batch: int = 16, seconds: float = 0.5) -> None:
    """The share of steps of so many seconds that is a wait, for shards in groups of four."""
    folder = shard.store.locate("")
    for store in (LocalStore(Path(folder)), Bucket(Path(folder), Cache(Path(folder) / "cache"))):
        shards = []
        for number in range(steps * batch // CLIPS + 4):
            name = f"train-{number + 1:06d}.tar"
            Path(store.locate(name)).unlink(missing_ok=True)
            os.link(store.locate(shard.name), store.locate(name))
            shards.append(Shard(store, name, shard.places))
        batches, waited = loader(shards, 4.0, batch, 1, shuffle_buffer=4 * CLIPS), []
        for _ in range(steps):
            began = time.perf_counter()
            next(batches)
            waited.append(time.perf_counter() - began)
            time.sleep(seconds)
        wait = sum(waited[16:]) / (sum(waited[16:]) + seconds * (steps - 16))
        where = f"a bucket at {PACE / 1e6:.0f} MB/s" if isinstance(store, Bucket) else "a folder"
        print(f"| wait for shards of {where}, steps of {seconds} s | {wait:.2%} of the step |")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rows of the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=12, help="that are timed (default: 12)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shard = write_shard(Path(folder) / "train-000000.tar")
        measure_loader(shard)
        measure_step(shard, arguments.steps)
        measure_bucket(shard)


if __name__ == "__main__":
    main()
