"""Shards: writing and reading beside plain webdataset, and the memory of a million clips.

    python -m benchmarks.shards speed [--clips 256] [--seconds 8]
    python -m benchmarks.shards memory [--clips 1100000]
    python -m benchmarks.shards loader [--clips 1100000]
    python -m benchmarks.shards braven [--clips 4]

`speed` makes samples of noise and features as VoxCeleb2 with BRAVEn would have (16 kHz, 1024
features) and times, one after the other on the same bytes: encoding and writing them; webdataset's
own TarWriter and WebDataset; davss' reader of samples with all its checks; both with the members
decoded. `memory` plans and writes the manifests of made-up clips and tells the process' peak.
`loader` trains on nothing: batches of the paper profile from a corpus of that many clips whose
shards are one file of 900 under many names, with two loader workers.
`braven` makes features of noise with BRAVEn Large, whose weights are random, on one core or a GPU.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
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
import torch
import webdataset

from davss.config import TrainingConfig
from davss.corpora import RawClip
from davss.networks import BRAVEn
from davss.networks.visual import BravenLips
from davss.shards import build  # noqa: F401  # what a driver imports
from davss.shards.contract import AUDIO, LIPS, META, decode, encode
from davss.shards.loader import training_loader, training_shards
from davss.shards.manifests import ShardResult, write_manifests
from davss.shards.members import PLACES, places_of, read_sample
from davss.shards.plan import ClipTable, plan_shards

RATE, DIM, REPEATS, CLIPS_PER_SHARD = 16_000, 1024, 5, 900
DEFAULT_CLIPS = {"speed": 256, "memory": 1_100_000, "loader": 1_100_000, "braven": 4}


def main(argv: list[str] | None = None) -> None:
    """Print one line for each number."""
    parser = argparse.ArgumentParser(prog="benchmarks.shards", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=DEFAULT_CLIPS)
    parser.add_argument("--clips", type=int, help=f"default: {DEFAULT_CLIPS}")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a clip")
    arguments = parser.parse_args(argv)
    count = arguments.clips or DEFAULT_CLIPS[arguments.what]
    if arguments.what == "memory":
        memory(count)
    else:
        {"speed": speed, "loader": loader, "braven": braven}[arguments.what](
            count, arguments.seconds
        )


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


def memory(count: int) -> None:
    """Plan and manifests of `count` clips that do not exist."""
    before = peak()
    started = time.perf_counter()
    table = ClipTable(clips(count))
    digest = table.digest()
    shards = plan_shards(table, CLIPS_PER_SHARD)
    planned = time.perf_counter()
    with TemporaryDirectory() as folder:
        write_manifests(results(table, shards), Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    written = time.perf_counter()
    print(f"{count} clips in {len(shards)} shards, plan {digest[:12]}")
    print(f"plan: {planned - started:.1f} s, manifests: {written - planned:.1f} s")
    print(f"manifests: {size / 1e6:.0f} MB")
    print(f"peak memory: {peak():.0f} MB, of which {before:.0f} MB before, of imports")


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


def braven(count: int, seconds: float) -> None:
    """Features of `count` clips of different lengths around `seconds`, as one batch of a task."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "braven.pth"
        torch.save(BRAVEn().state_dict(), path)
        encoder = BravenLips.of(path)
        rng = np.random.default_rng(0)
        lengths = (25 * seconds * rng.uniform(0.75, 1.25, count)).astype(int)
        mouths = [rng.integers(0, 256, (length, 96, 96), dtype=np.uint8) for length in lengths]
        encoder.batch([mouths[0][:10]])  # loads the network
        started = time.perf_counter()
        encoder.batch(mouths)
        taken = time.perf_counter() - started
    frames = int(lengths.sum())
    device = "a GPU" if torch.cuda.is_available() else "one core"
    speed_of = f"{frames / taken:.0f} frames/s, {frames / 25 / taken:.1f} x real time"
    print(f"BRAVEn Large on {device}: {speed_of}")


def clips(count: int) -> Iterator[RawClip]:
    """Clips named as those of VoxCeleb2."""
    for index in range(count):
        speaker = f"id{index % 6000:05d}"
        source = f"dev/mp4/{speaker}/{index * 2654435761 % 2**44:011x}/{index % 100:05d}.mp4"
        path = Path("/mnt/corpora/voxceleb2") / source
        key = source.replace("/", "-").removesuffix(".mp4")
        split = "valid" if index % 100 == 0 else "train"
        yield RawClip(key, split, speaker, source, path, path)


def results(table: ClipTable, shards: list[Any]) -> Iterator[ShardResult]:
    """What a build would have noted of every shard; one clip in fifty is a reject."""
    for shard in shards:
        name = f"shards/voxceleb2/{shard.name}-0123456789ab.tar"
        result = ShardResult({"shard": name, "split": shard.split, "bytes": 1, "sha256": "0" * 64})
        for number, clip in enumerate(table.clips(shard.rows)):
            digest = f"{number:064x}"
            if number % 50 == 0:
                row = {"path": clip.source, "split": clip.split, "reason": "no face found"}
                result.rejects.append(row | {"source_sha256": digest})
                continue
            row = {"key": clip.key, "split": clip.split, "speaker": clip.speaker, "shard": name}
            row |= {"num_samples": 128_000, "num_frames": 200, "seconds": 8.0}
            row |= {"sample_rate": RATE, "source": clip.source, "source_sha256": digest}
            result.clips.append(row)
        yield result


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


def peak() -> float:
    """Most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
