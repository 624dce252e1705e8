"""Shards in Ray tasks: few at a time, so in bounded memory; a clip that ends a process is found and
left out.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError
from tqdm import tqdm

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError
from davss.networks.eigenlips import VisualEncoder
from davss.networks.visual import BravenLips
from davss.shards.plan import ClipTable, PlannedShard
from davss.shards.sample import read_recording
from davss.shards.sources import on_this_machine
from davss.shards.writer import assemble, recall, write_piece
from davss.storage import Store

CALLS_PER_PROCESS = 50  # then a worker is a new process, should a library leak
_DEATHS = (WorkerCrashedError, OutOfMemoryError)


def in_order(
    function: Callable,
    arguments: Iterable[tuple],
    total: int,
    description: str,
    recover: Callable[[tuple], Any],
) -> Iterator[Any]:
    """Results of function(*argument) from Ray tasks, in order; bounded in flight, so in memory.

    `recover(argument)` gives the result where the task's process died again and again.
    """
    task = ray.remote(max_calls=CALLS_PER_PROCESS)(function)
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: deque = deque()

    def first() -> Any:
        reference, argument = pending.popleft()
        try:
            return result_of(reference)
        except _DEATHS:
            return recover(argument)
        finally:
            bar.update()

    with tqdm(total=total, desc=description, disable=not total) as bar:
        for argument in arguments:
            if len(pending) >= limit:
                yield first()
            pending.append((task.remote(*argument), argument))
        while pending:
            yield first()


def result_of(reference: Any) -> Any:
    """What a task returned; a DavssError that it raised is raised as it was, without Ray's."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, DavssError):
            raise error.cause from None
        raise


@dataclass(frozen=True)
class Build:
    """What all tasks of one build have in common."""

    table: ClipTable
    config: ShardsConfig
    encoder: VisualEncoder | None
    store: Store
    folder: str
    notes: str

    def run(self, shards: Sequence[PlannedShard]) -> None:
        """Make all shards that are not there; afterwards each has its note."""
        names = {entry.name.removeprefix(f"{self.notes}/") for entry in self.store.list(self.notes)}
        noted = [shard for shard in shards if f"{shard.name}.json" in names]
        finished = set(self._recall(noted))
        for shard in noted:
            if shard.name in finished and any(n.startswith(f"{shard.name}/") for n in names):
                self.store.remove(f"{self.notes}/{shard.name}")
        self._write([shard for shard in shards if shard.name not in finished])

    def _recall(self, shards: Sequence[PlannedShard]) -> Iterator[str]:
        """Names of the shards that are as their notes say."""
        arguments = (
            (list(self.table.clips(shard.rows)), f"{self.notes}/{shard.name}.json", self.store)
            for shard in shards
        )
        found = in_order(
            _is_finished, arguments, len(shards), f"{self.folder}: looked up", lambda _: False
        )
        for shard, is_finished in zip(shards, found, strict=True):
            if is_finished:
                yield shard.name

    def _write(self, shards: Sequence[PlannedShard]) -> None:
        pieces = [piece for shard in shards for piece in shard.pieces()]
        ends = {shard.pieces()[-1][0]: shard for shard in shards}
        task = ray.remote(_assemble)
        assembling: deque = deque()
        for (name, _), _ in zip(pieces, self._write_pieces(pieces), strict=True):
            if name not in ends:
                continue
            shard = ends[name]
            names = [f"{self.notes}/{piece}" for piece, _ in shard.pieces()]
            assembling.append(task.remote(names, shard.name, self.folder, self.notes, self.store))
            if len(assembling) > 2:
                result_of(assembling.popleft())
        while assembling:
            result_of(assembling.popleft())

    def _write_pieces(self, pieces: Sequence[tuple[str, np.ndarray]]) -> Iterator[None]:
        encoders: list[Any] = _on_gpus(self.encoder) or [ray.put(self.encoder)]
        arguments = (
            (
                list(self.table.clips(rows)),
                f"{self.notes}/{name}",
                self.store,
                self.config,
                encoders[number % len(encoders)],
            )
            for number, (name, rows) in enumerate(pieces)
        )
        return in_order(write_piece, arguments, len(pieces), self.folder, self._write_survivors)

    def _write_survivors(self, argument: tuple) -> None:
        """Write a piece without the clips whose decoding ends its process."""
        probe = ray.remote(max_calls=1, max_retries=0)(_try)
        unreadable = []
        for clip in argument[0]:
            try:
                ray.get(probe.remote(clip, self.config, self.encoder is not None))
            except _DEATHS:
                unreadable.append(clip.key)
        writing: Any = ray.remote(write_piece)
        result_of(writing.remote(*argument, unreadable))


@dataclass(frozen=True)
class _OnGpu:
    """A visual encoder in an actor that owns a GPU."""

    actor: Any
    dim: int

    def __call__(self, mouth: np.ndarray) -> np.ndarray:
        return self.batch([mouth])[0]

    def batch(self, mouths: Sequence[np.ndarray]) -> list[np.ndarray]:
        return ray.get(self.actor.batch.remote(mouths))


class _Actor:
    def __init__(self, encoder: VisualEncoder) -> None:
        self.encoder = encoder

    def batch(self, mouths: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self.encoder.batch(mouths)


def _on_gpus(encoder: VisualEncoder | None) -> list[_OnGpu]:
    """The encoder once per GPU, where there are any and it can use one."""
    count = int(ray.cluster_resources().get("GPU", 0))
    if not isinstance(encoder, BravenLips):
        return []
    actor = ray.remote(num_cpus=0, num_gpus=1)(_Actor)
    return [_OnGpu(actor.remote(encoder), encoder.dim) for _ in range(count)]


def _try(clip: RawClip, config: ShardsConfig, with_mouth: bool) -> None:
    with (
        contextlib.suppress(DavssError),
        TemporaryDirectory() as scratch,
        on_this_machine(clip, Path(scratch)) as local,
    ):
        read_recording(local, config, with_mouth)


def _assemble(pieces: list[str], name: str, folder: str, notes: str, store: Store) -> None:
    assemble(pieces, name, folder, notes, store)
    store.remove(f"{notes}/{name}")


def _is_finished(clips: list[RawClip], note: str, store: Store) -> bool:
    return recall(clips, note, store) is not None
