"""Training batches from shards: an endless, full-batch stream inside a torch DataLoader.

Every worker reads all shards in its own endless random permutations, shuffles *undecoded* samples
in a buffer, then decodes, crops and scales. All randomness comes from (seed, samples_seen, rank,
worker): the same four numbers give the same batches, and a run resumed at another `samples_seen`
sees new crops in a new order.

B batch, T samples, V video frames, D visual feature size.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from davss.errors import DavssError
from davss.shards.contract import Clip, decode, frames_of, samples_per_frame
from davss.shards.reader import check_shard, read_clips_manifest, read_shards_manifest
from davss.shards.tar import read_samples
from davss.storage import Store, open_store


class Batch(NamedTuple):
    """Crops: audio (B, T), lips (B, V, D) or None, has_lips (B,) bool."""

    audio: torch.Tensor
    lips: torch.Tensor | None
    has_lips: torch.Tensor
    keys: list[str]


def training_shards(
    manifest_dir: Path,
    storage: Path | Store,
    split: str,
    *,
    crop_samples: int,
    sample_rate: int,
) -> list[str]:
    """Paths or URLs of a split's shards, once its manifest shows that every clip fits.

    Raises DavssError naming the manifest, or the shard, and the mend.
    """
    manifest = Path(manifest_dir) / f"{split}.clips.parquet"
    clips = read_clips_manifest(manifest_dir, split)
    if (clips.sample_rate != sample_rate).any():
        raise DavssError(
            f"{manifest}: clips at {clips.sample_rate.iloc[0]} Hz, training wants {sample_rate} "
            "Hz; set shards.sample_rate"
        )
    shortest = clips.loc[clips.num_samples.idxmin()]
    if shortest.num_samples < crop_samples:
        raise DavssError(
            f"{manifest}: clip {shortest.key} lasts {shortest.seconds:.2f} s, the crop "
            f"{crop_samples / sample_rate:.2f} s; raise shards.min_seconds or lower "
            "training.crop_seconds"
        )
    store = open_store(storage)
    return [store.locate(name) for name in read_shards_manifest(manifest_dir, store, split)]


def training_loader(
    shards: list[str],
    *,
    crop_samples: int,
    sample_rate: int,
    batch_size: int,
    seed: int,
    samples_seen: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    shuffle_buffer: int = 1000,
    gain_db: tuple[float, float] = (0.0, 0.0),
    sigma_data: float = 0.05,
) -> Iterator[Batch]:
    """Endless batches of random crops (B, T), with lips (B, V, D) where clips have them.

    The whole clip is scaled to RMS sigma_data times a gain drawn uniformly in dB from `gain_db`
    (docs/method.md §2). Raises DavssError when there are fewer shards than loader workers of all
    ranks, or a clip is shorter than the crop.
    """
    readers = world_size * max(1, num_workers)
    if len(shards) < readers:
        raise DavssError(
            f"{len(shards)} shards for {readers} loader workers ({world_size} rank(s) × "
            f"{max(1, num_workers)}); lower shards.shard_megabytes or training.loader_workers"
        )
    crops = _Crops(crop_samples, sample_rate, (gain_db[0], gain_db[1]), sigma_data)
    entropy = (seed, samples_seen, rank)
    dataset = _Batches(sorted(shards), crops, batch_size, shuffle_buffer, entropy)
    # Batches are made in the workers, so they are full whatever the lengths of shards.
    loader = DataLoader(
        dataset, batch_size=None, num_workers=num_workers, pin_memory=torch.cuda.is_available()
    )
    return _raise_errors(loader)


def _raise_errors(loader: DataLoader) -> Iterator[Batch]:
    for item in loader:
        # Raised in a worker, an error would arrive wrapped in that worker's stack trace.
        if isinstance(item, str):
            raise DavssError(item)
        yield item


@dataclass(frozen=True)
class _Crops:
    """How a clip becomes a training crop."""

    crop_samples: int
    sample_rate: int
    gain_db: tuple[float, float]
    sigma_data: float

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """A random crop of `crop_samples` with its lips, the whole clip at its training level."""
        if clip.sample_rate != self.sample_rate:
            raise DavssError(
                f"{clip.key}: {clip.sample_rate} Hz, training wants {self.sample_rate} Hz; "
                "rebuild the shards"
            )
        if len(clip.audio) < self.crop_samples:
            raise DavssError(
                f"{clip.key}: {len(clip.audio)} samples are shorter than the crop of "
                f"{self.crop_samples}; raise shards.min_seconds or lower training.crop_seconds"
            )
        gain = self.sigma_data * 10 ** (rng.uniform(*self.gain_db) / 20)
        level = np.sqrt(np.mean(np.square(clip.audio, dtype=np.float64)))
        audio, lips = self._crop(clip, rng)
        return replace(clip, audio=audio * np.float32(gain / max(level, 1e-8)), lips=lips)

    def _crop(self, clip: Clip, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        slack = len(clip.audio) - self.crop_samples
        if clip.lips is None:
            start = int(rng.integers(slack + 1))
            return clip.audio[start : start + self.crop_samples], None
        # Lips and audio stay aligned because a crop begins on a frame boundary.
        per_frame = samples_per_frame(self.sample_rate)
        num_frames = frames_of(self.crop_samples, self.sample_rate)
        first = int(rng.integers(len(clip.lips) - num_frames + 1))
        start = first * per_frame
        audio = clip.audio[start : start + self.crop_samples]
        return audio, clip.lips[first : first + num_frames]


class _Batches(IterableDataset):
    """One endless stream of batches per worker; a user error travels as a string."""

    def __init__(
        self,
        shards: list[str],
        crops: _Crops,
        batch_size: int,
        shuffle_buffer: int,
        entropy: tuple[int, int, int],
    ) -> None:
        self.shards, self.crops, self.batch_size = shards, crops, batch_size
        self.shuffle_buffer, self.entropy = shuffle_buffer, entropy

    def __iter__(self) -> Iterator[Batch | str]:
        try:
            yield from self._batches()
        except DavssError as error:
            yield str(error)

    def _batches(self) -> Iterator[Batch]:
        worker = get_worker_info()
        sequence = np.random.SeedSequence((*self.entropy, worker.id if worker else 0))
        rng = np.random.default_rng(sequence)
        crops = []
        for sample in self._samples(int(rng.integers(2**63))):
            crops.append(self.crops(decode(sample), rng))
            if len(crops) == self.batch_size:
                yield collate(crops)
                crops = []

    def _samples(self, seed: int) -> Iterator[dict]:
        # Every worker permutes all shards: nothing is left for a node or worker splitter to divide.
        return iter(
            webdataset.DataPipeline(
                partial(_permutations, self.shards, random.Random(seed)),
                webdataset.shuffle(self.shuffle_buffer, initial=self.shuffle_buffer, seed=seed),
            )
        )


def _permutations(shards: list[str], rng: random.Random) -> Iterator[dict[str, Any]]:
    """The samples of all shards again and again, undecoded, the shards always in another order."""
    # Not webdataset.ResampledShards: drawing with replacement leaves few shards unevenly used.
    while True:
        for shard in rng.sample(shards, len(shards)):
            folder, _, name = shard.rpartition("/")
            store = open_store(folder)
            check_shard(store, name)
            with store.open(name) as stream:
                yield from read_samples(stream, shard)


def collate(clips: list[Clip]) -> Batch:
    """Stack equally long clips; clips without lips get zeros and has_lips False."""
    has_lips = torch.tensor([clip.lips is not None for clip in clips])
    audio = torch.from_numpy(np.stack([clip.audio for clip in clips]))
    lips = None
    known = next((clip.lips for clip in clips if clip.lips is not None), None)
    if known is not None:
        blank = np.zeros_like(known)
        arrays = [blank if clip.lips is None else clip.lips for clip in clips]
        lips = torch.from_numpy(np.stack(arrays))
    return Batch(audio, lips, has_lips, [clip.key for clip in clips])
