"""Shards: writing and reading beside plain webdataset, and batches of a million clips.

    python -m benchmarks.shards speed [--clips 256] [--seconds 8]
    python -m benchmarks.shards loader [--clips 1100000]

`speed` makes samples of noise and features as VoxCeleb2 with BRAVEn would have (16 kHz, 1024
features) and times, one after the other on the same bytes: encoding and writing them; webdataset's
own TarWriter and WebDataset; davss' reader of samples with all its checks; both with the members
decoded. `loader` trains on nothing: batches of the paper profile from a corpus of that many clips
whose shards are one file of 900 under many names, with two loader workers.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas
import psutil
import soundfile
import webdataset

from davss.config import TrainingConfig
from davss.shards import build  # noqa: F401  # what a driver imports
from davss.shards.contract import AUDIO, LIPS, META, decode, encode
from davss.shards.loader import training_loader, training_shards
from davss.shards.members import PLACES, places_of, read_sample

RATE, DIM, REPEATS, CLIPS_PER_SHARD = 16_000, 1024, 5, 900
DEFAULT_CLIPS = {"speed": 256, "loader": 1_100_000}


def main(argv: list[str] | None = None) -> None:
    """Print one line for each number."""
    parser = argparse.ArgumentParser(prog="benchmarks.shards", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=DEFAULT_CLIPS)
    parser.add_argument("--clips", type=int, help=f"default: {DEFAULT_CLIPS}")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a clip")
    arguments = parser.parse_args(argv)
    count = arguments.clips or DEFAULT_CLIPS[arguments.what]
    {"speed": speed, "loader": loader}[arguments.what](count, arguments.seconds)


def speed(count: int, seconds: float) -> None:
    """Samples a second, medians of REPEATS runs that alternate."""
    recordings = [recording(index, seconds) for index in range(min(count, 32))]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "shard.tar"
        started = time.perf_counter()
        samples = [encode(*recordings[index % len(recordings)]) for index in range(count)]
        report("encode members", time.perf_counter() - started, count, seconds)
        for number, sample in enumerate(samples):
            sample["__key__"] = f"{sample['__key__']}-{number}"
        places = write(samples, path)
        runs: dict[str, Callable[[], None]] = {
            "write, webdataset": lambda: write(samples, path),
            "read, webdataset": lambda: drain(plain(path)),
            "read, davss": lambda: drain(own(path, places)),
            "read and decode, webdataset": lambda: drain(map(decode_plainly, plain(path))),
            "read and decode, davss": lambda: drain(map(decode, own(path, places))),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(REPEATS):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - started)
        for name, taken in times.items():
            report(name, statistics.median(taken), count, seconds)
    for kind in ("read", "read and decode"):
        ratio = statistics.median(times[f"{kind}, webdataset"]) / statistics.median(
            times[f"{kind}, davss"]
        )
        print(f"{kind}: davss at {ratio:.2f} times webdataset's speed")


def loader(count: int, seconds: float, items: int = 3200) -> None:
    """Items that two loader workers make per second of their time, and memory of their own."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        shards = corpus(count, seconds, root)
        batches = training_loader(
            training_shards(root, root, "train", crop_samples=4 * RATE, sample_rate=RATE),
            crop_samples=4 * RATE,
            sample_rate=RATE,
            batch_size=16,
            seed=0,
            num_workers=2,
            shuffle_buffer=TrainingConfig().shuffle_buffer,
        )
        next(batches)
        workers = psutil.Process().children()
        before = sum(sum(worker.cpu_times()[:2]) for worker in workers)
        drain(islice(batches, items // 16))
        taken = sum(sum(worker.cpu_times()[:2]) for worker in workers) - before
        memory = max(worker.memory_full_info().uss for worker in workers)
        print(f"{count} clips in {shards} shards: {items / taken:.0f} items/s of a core")
        print(f"own memory of a loader worker: {memory / 1e6:.0f} MB")


def corpus(count: int, seconds: float, root: Path) -> int:
    """Manifests of `count` clips in shards that are one file; how many shards."""
    made = [encode(*recording(index, seconds)) for index in range(16)]
    samples = [made[n % 16] | {"__key__": f"k-{n}"} for n in range(CLIPS_PER_SHARD)]
    places = write(samples, root / "shard.tar")
    names = [f"{number}.tar" for number in range(-(-count // CLIPS_PER_SHARD))]
    for name in names:
        (root / name).hardlink_to(root / "shard.tar")
    rows = pandas.DataFrame({"shard": names, "split": "train", "schema_version": 1})
    rows["bytes"] = (root / "shard.tar").stat().st_size
    rows[["sha256", "source_digest", "samples", "seconds"]] = "", "", CLIPS_PER_SHARD, 7200.0
    rows.to_parquet(root / "train.parquet")
    clips = pandas.DataFrame({"shard": np.repeat(names, CLIPS_PER_SHARD), "split": "train"})
    clips["key"] = [f"{n // CLIPS_PER_SHARD}-{n}" for n in range(len(clips))]
    clips[["speaker", "source", "source_sha256", "sample_rate"]] = "id", "x", "", RATE
    frames = round(25 * seconds)
    lengths = frames * RATE // 25, frames, seconds
    clips[["num_samples", "num_frames", "seconds"]] = lengths
    clips[PLACES] = np.tile(places, (len(names), 1))
    clips.to_parquet(root / "train.clips.parquet")
    return len(names)


def recording(index: int, seconds: float) -> tuple:
    """Arguments of `encode`: noise in which flac finds as little as in speech."""
    rng = np.random.default_rng(index)
    frames = round(25 * seconds)
    audio = 0.05 * rng.standard_normal(frames * RATE // 25) * rng.uniform(0, 1)
    meta = {"split": "train", "speaker": "id00001", "source": f"dev/mp4/{index}.mp4"}
    return f"k-{index}", audio, rng.standard_normal((frames, DIM)), meta | {"sample_rate": RATE}


def write(samples: list[dict[str, Any]], path: Path) -> np.ndarray:
    """As davss writes: webdataset's writer does the work. Where the members lie (N, 6)."""
    places = []
    with open(path, "wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as writer:
        for sample in samples:
            places.append(list(places_of(sample, writer.tarstream.offset).values()))
            writer.write(sample)
    return np.array(places)


def plain(path: Path) -> Iterator[dict[str, Any]]:
    """Samples by webdataset alone."""
    return iter(webdataset.WebDataset(str(path), shardshuffle=False))


def own(path: Path, places: np.ndarray) -> Iterator[dict[str, Any]]:
    """Samples by davss."""
    for of_clip in places:
        with open(path, "rb") as stream:
            yield read_sample(stream, of_clip, str(path))


def decode_plainly(sample: dict[str, Any]) -> tuple:
    """The members of a sample, unchecked."""
    audio, _ = soundfile.read(io.BytesIO(sample[AUDIO]), dtype="float32")
    lips = np.load(io.BytesIO(sample[LIPS])).astype(np.float32)
    return audio, lips, json.loads(sample[META])


def drain(items: Any) -> None:
    """Go through all of them."""
    for _ in items:
        pass


def report(name: str, taken: float, count: int, seconds: float) -> None:
    """One line: samples a second, and how much faster than they play."""
    print(f"{name}: {count / taken:.0f} samples/s, {count * seconds / taken:.0f} x real time")


if __name__ == "__main__":
    main()
