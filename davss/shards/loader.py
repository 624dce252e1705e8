"""Training batches from shards: an endless stream in which every item is a function of its number.

Item p of a run is the same crop of the same clip with the same gain, noise and draws, whichever
rank or loader worker makes it: all its randomness comes from (seed, p). So the position of the
stream is one number, samples seen, a resumed run goes on where it was, and any number of workers
trains on the same items. The shards of an epoch come in another order each time, and about
`shuffle_buffer` clips are mixed at a time (`Order`); then the crop alone is read and decoded. From
a bucket the shards of the next mix are fetched while one is used.

B batch, T samples, V video frames, D visual feature size.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from davss.config import AugmentConfig, PriorConfig
from davss.errors import DavssError
from davss.shards import augment as variations
from davss.shards.contract import Clip, decode, frames_of, samples_per_frame
from davss.shards.members import MEND, PLACES
from davss.shards.order import Order
from davss.shards.reader import read_clips_manifest, read_shards_manifest, sample_of
from davss.storage import Store, open_store

SHARED = Path("/dev/shm")
ROOM_PATIENCE = 60.0  # seconds that others get to free some of it

_MAIN, _AUDIO_ONLY, _FOREIGN = 0, 1, 2  # streams of clips, each with its own order


class Batch(NamedTuple):
    """Crops: audio (B, T), lips (B, V, D) or None, has_lips (B,) bool; and the draws for the loss:
    noise (B, T) standard normal, uniforms (B, 3) float64. foreign: (B, 2, T) or None, two sounds
    of the other kind beside each.
    """

    audio: torch.Tensor
    lips: torch.Tensor | None
    has_lips: torch.Tensor
    keys: list[str]
    noise: torch.Tensor
    uniforms: torch.Tensor
    foreign: torch.Tensor | None = None


class Shard(NamedTuple):
    """A shard in its store, and where the members of its clips lie: (N, 6), see members.PLACES."""

    store: Store
    name: str
    places: np.ndarray


def training_shards(
    manifest_dir: Path, storage: Path | Store, config: PriorConfig, sample_rate: int
) -> list[Shard]:
    """The shards of the train split, once its manifest shows that a crop fits into every clip.

    Raises DavssError naming the manifest, or the shard, and the mend.
    """
    manifest = Path(manifest_dir) / "train.clips.parquet"
    clips = read_clips_manifest(manifest_dir, "train")
    if (clips.sample_rate != sample_rate).any():
        raise DavssError(
            f"{manifest}: clips at {clips.sample_rate.iloc[0]} Hz, training wants {sample_rate} "
            "Hz; set shards.sample_rate"
        )
    shortest, crop = clips.loc[clips.num_samples.idxmin()], config.training.crop_seconds
    if shortest.num_samples < round(crop * sample_rate):
        raise DavssError(
            f"{manifest}: clip {shortest.key} lasts {shortest.seconds:.2f} s, the crop "
            f"{crop:.2f} s; raise shards.min_seconds or lower "
            "training.crop_seconds"
        )
    store = open_store(storage)
    names = read_shards_manifest(manifest_dir, store, "train")
    # Sorted by name: the order of an epoch must not depend on the order of a manifest.
    rows = clips.sort_values(["shard", "audio_offset"])
    shards = [
        Shard(store, str(name), of_shard[PLACES].to_numpy())
        for name, of_shard in rows.groupby("shard", sort=False)
    ]
    if {shard.name for shard in shards} != set(names):
        raise DavssError(f"{manifest}: its shards are not those of train.parquet; {MEND}")
    return shards


def training_loader(
    shards: Sequence[Shard],
    config: PriorConfig,
    sample_rate: int,
    seed: int,
    *,
    samples_seen: int = 0,
    rank: int = 0,
    world_size: int = 1,
    audio_only: Sequence[Shard] = (),
    foreign: Sequence[Shard] = (),
) -> Iterator[Batch]:
    """Endless batches of random crops (B, T), with lips (B, V, D) where clips have them.

    This rank gets its share (`shares`) of the global batch, in parts of at most
    `max_batch_per_worker`. Of the items a fraction comes from the shards `audio_only`, without
    their lips; `augment` varies the crops of both. Of the shards `foreign` each item has two
    more crops. The whole clip is scaled to RMS sigma_data times a gain drawn uniformly in dB from
    `gain_db` (docs/method.md §2). Raises DavssError when a shard is missing or damaged, or a clip
    is shorter than the crop.
    """
    training, batch_size = config.training, config.training.global_batch_size
    streams = [_stream(shards, training.shuffle_buffer, seed, _MAIN)]
    if training.audio_only_fraction:
        streams.append(_stream(audio_only, training.shuffle_buffer, seed, _AUDIO_ONLY))
    beside = _stream(foreign, training.shuffle_buffer, seed, _FOREIGN) if foreign else None
    crop_samples = round(training.crop_seconds * sample_rate)
    items = _Items(streams, beside, config, crop_samples, sample_rate, seed)
    place = micro_batches(shares(batch_size, world_size)[rank], training.max_batch_per_worker)
    loader = DataLoader(
        _Batches(items, place, batch_size, samples_seen),
        batch_size=None,
        num_workers=training.loader_workers,
        pin_memory=torch.cuda.is_available(),
    )
    return _raise_errors(loader)


def shares(batch_size: int, world_size: int) -> list[range]:
    """Which items of a global batch each rank gets: neighbours, and nearly as many for each."""
    ends = [batch_size * rank // world_size for rank in range(world_size + 1)]
    return [range(start, end) for start, end in zip(ends, ends[1:], strict=False)]


def micro_batches(share: range, max_batch: int | None) -> list[range]:
    """A rank's share in as few parts of at most `max_batch` as can be, nearly equally long."""
    if max_batch is None or len(share) <= max_batch:
        return [share]
    count = math.ceil(len(share) / max_batch)
    return [share[part.start : part.stop] for part in shares(len(share), count)]


def _raise_errors(loader: DataLoader) -> Iterator[Batch]:
    for item in loader:
        # Raised in a worker, an error would arrive wrapped in that worker's stack trace.
        if isinstance(item, str):
            raise DavssError(item)
        yield item


@dataclass
class _Stream:
    shards: Sequence[Shard]
    order: Order
    group: tuple[int, int] | None = None

    def locate(self, position: int) -> tuple[int, int]:
        """Shard and number in the shard of the clip at a position of the run; with the first of a
        group its shards and those of the next one begin to be fetched, if they lie in a bucket.
        """
        if (group := self.order.group_at(position)) != self.group:
            self.group = group
            ahead = [self.shards[number] for number in self.order.shards_from(*group)]
            threading.Thread(target=_fetch, args=(ahead,), daemon=True).start()
        return self.order.locate(position)

    def sample(self, place: tuple[int, int]) -> dict[str, Any]:
        """A clip by shard and number in the shard, its members undecoded."""
        shard = self.shards[place[0]]
        return sample_of(shard.store, shard.name, shard.places[place[1]])


def _fetch(shards: Sequence[Shard]) -> None:
    with contextlib.suppress(DavssError):  # told when it is needed
        for shard in shards:
            shard.store.local(shard.name)


def _stream(shards: Sequence[Shard], shuffle_buffer: int, seed: int, number: int) -> _Stream:
    counts = [len(shard.places) for shard in shards]
    return _Stream(shards, Order(counts, shuffle_buffer, seed, number))


class _Item(NamedTuple):
    """A crop, noise (T,) and uniforms (3,) for its loss, and sounds (2, T) of the other kind."""

    clip: Clip
    noise: np.ndarray
    uniforms: np.ndarray
    foreign: np.ndarray | None


@dataclass(frozen=True)
class _Items:
    """Item p of a run, by its number alone."""

    streams: list[_Stream]
    foreign: _Stream | None
    config: PriorConfig
    crop_samples: int
    sample_rate: int
    seed: int

    def __call__(self, position: int) -> _Item:
        """Item `position`."""
        rng, training = np.random.default_rng((self.seed, position)), self.config.training
        before = math.floor(position * training.audio_only_fraction)
        is_extra = math.floor((position + 1) * training.audio_only_fraction) > before
        stream = self.streams[_AUDIO_ONLY if is_extra else _MAIN]
        place = stream.locate(before if is_extra else position - before)
        clip = self._clip(stream, place, training.augment, rng)
        if is_extra:
            clip = replace(clip, lips=None)
        uniforms = rng.uniform(size=3)
        noise = rng.standard_normal(self.crop_samples, dtype=np.float32)
        return _Item(clip, noise, uniforms, self._beside(position, rng))

    def _beside(self, position: int, rng: np.random.Generator) -> np.ndarray | None:
        """Two foreign sounds (2, T)."""
        if self.foreign is None:
            return None
        augment, sounds = self.config.training.foreign.augment, []
        for number in (2 * position, 2 * position + 1):
            place = self.foreign.locate(number)
            sounds.append(self._clip(self.foreign, place, augment, rng).audio)
        return np.stack(sounds)

    def _clip(
        self,
        stream: _Stream,
        place: tuple[int, int],
        augment: AugmentConfig,
        rng: np.random.Generator,
    ) -> Clip:
        """A random crop, varied as `augment` says, at its training level."""
        gain_db = self.config.diffusion.gain_db
        if augment == AugmentConfig():
            return self._crop(stream.sample(place), rng, gain_db)

        def crop(place: tuple[int, int]) -> Clip:
            speed = math.exp(rng.uniform(*np.log(augment.speed)))
            return self._crop(stream.sample(place), rng, (0.0, 0.0), speed)

        clip = crop(place)
        audio = clip.audio
        if rng.uniform() < augment.sum_fraction:
            other = crop(stream.order.any(rng)).audio
            audio = variations.add(audio, other, rng.uniform(*augment.sum_db))
        if augment.colour_db:
            decibels = rng.normal(0, augment.colour_db, variations.OCTAVES + 1)
            audio = variations.colour(audio, decibels)
        if augment.thin and rng.uniform() < augment.thin:
            cutoff = math.exp(rng.uniform(*np.log(augment.thin_hz)))
            audio = variations.thin(audio, cutoff / self.sample_rate)
        if augment.dull and rng.uniform() < augment.dull:
            cutoff = math.exp(rng.uniform(*np.log(augment.dull_hz)))
            audio = variations.dull(audio, cutoff / self.sample_rate)
        if augment.reverse and rng.uniform() < 0.5:
            audio = audio[::-1]
        gain = np.float32(10 ** (rng.uniform(*gain_db) / 20))
        return replace(clip, audio=audio * gain)

    def _crop(
        self,
        sample: dict[str, Any],
        rng: np.random.Generator,
        gain_db: tuple[float, float],
        speed: float = 1.0,
    ) -> Clip:
        """A random crop of `crop_samples` with its lips, the whole clip at RMS sigma_data times a
        gain; played at `speed` as far as the clip is long enough.
        """
        decibel, place = rng.uniform(*gain_db), rng.uniform()
        clip = decode(sample, lambda key, meta: self._place(key, meta, place, speed))
        gain = self.config.diffusion.sigma_data * 10 ** (decibel / 20)
        # The level of the whole clip is in its meta: no need to decode what is not used.
        scale = np.float32(gain / max(clip.meta["rms"], 1e-8))
        audio = variations.change_speed(clip.audio, self.crop_samples)
        return replace(clip, audio=audio * scale)

    def _place(self, key: str, meta: dict[str, Any], place: float, speed: float) -> tuple[int, int]:
        """First sample and length; `place` in [0, 1) says where."""
        length, rate = meta["num_samples"], meta["sample_rate"]
        if rate != self.sample_rate:
            raise DavssError(
                f"{key}: {rate} Hz, training wants {self.sample_rate} Hz; rebuild the shards"
            )
        if length < self.crop_samples:
            raise DavssError(
                f"{key}: {length} samples are shorter than the crop of "
                f"{self.crop_samples}; raise shards.min_seconds or lower training.crop_seconds"
            )
        if meta["num_frames"] is None:
            read = min(variations.read_length(self.crop_samples, speed), length)
            return int(place * (length - read + 1)), read
        # Lips and audio stay aligned because a crop begins on a frame boundary.
        slack = meta["num_frames"] - frames_of(self.crop_samples, rate)
        return int(place * (slack + 1)) * samples_per_frame(rate), self.crop_samples


@dataclass
class _Batches(IterableDataset):
    """One rank's micro-batches, step by step; a user error travels as a string."""

    items: _Items
    micro_batches: list[range]
    batch_size: int
    samples_seen: int

    def __iter__(self) -> Iterator[Batch | str]:
        # The loader asks its workers in turn, so that batch n comes from worker n modulo workers.
        worker = get_worker_info()
        number, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        try:
            while True:
                step, part = divmod(number, len(self.micro_batches))
                start = self.samples_seen + step * self.batch_size
                batch = self._batch([start + place for place in self.micro_batches[part]])
                if worker:
                    _wait_for_room(batch, stride)
                yield batch
                number += stride
        except DavssError as error:
            yield str(error)

    def _batch(self, positions: list[int]) -> Batch:
        clips, noises, uniforms, foreign = zip(*map(self.items, positions), strict=True)
        noise = torch.from_numpy(np.stack(noises))
        batch = collate(clips, noise, torch.from_numpy(np.stack(uniforms)))
        if self.items.foreign is None:
            return batch
        return batch._replace(foreign=torch.from_numpy(np.stack(foreign)))


def _wait_for_room(batch: Batch, num_workers: int) -> None:
    """Wait for room in the shared memory through which workers hand over batches: without it torch
    loses them, and training waits for ever. DavssError where there is none.
    """
    size = sum(each.nbytes for each in batch if isinstance(each, torch.Tensor))
    needed, end = 2 * num_workers * size, time.monotonic() + ROOM_PATIENCE
    while SHARED.is_dir() and (disk := shutil.disk_usage(SHARED)).total:  # 0: without a limit
        if disk.free >= needed:
            return
        if disk.total < needed or time.monotonic() > end:
            raise DavssError(
                f"{SHARED}: {disk.free / 1e6:.0f} MB free, batches of training take "
                f"{needed / 1e6:.0f}; give the container more, as `docker run --shm-size=16g` "
                "does, or set training.loader_workers to 0"
            )
        time.sleep(0.05)


def collate(clips: Sequence[Clip], noise: torch.Tensor, uniforms: torch.Tensor) -> Batch:
    """Stack equally long clips; clips without lips get zeros and has_lips False."""
    has_lips = torch.tensor([clip.lips is not None for clip in clips])
    audio = torch.from_numpy(np.stack([clip.audio for clip in clips]))
    lips = None
    known = next((clip.lips for clip in clips if clip.lips is not None), None)
    if known is not None:
        blank = np.zeros_like(known)
        arrays = [blank if clip.lips is None else clip.lips for clip in clips]
        lips = torch.from_numpy(np.stack(arrays))
    return Batch(audio, lips, has_lips, [clip.key for clip in clips], noise, uniforms)
