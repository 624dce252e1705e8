"""Which clips go into which shard, decided before anything is decoded.

A corpus may have a million clips: they are kept as columns, of which a clip takes some 250 bytes,
and become objects a handful at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import compute

from davss.corpora import RawClip
from davss.errors import DavssError
from davss.shards.contract import SPLITS
from davss.storage import S3

PIECE = 32  # clips that are done at once: the most that an interruption costs a worker
CHUNK = 20_000
_FIELDS = [field.name for field in dataclasses.fields(RawClip)]
_PATHS = [field.name for field in dataclasses.fields(RawClip) if "Path" in str(field.type)]
_ORDER = "order"
_SOURCE = "\0"  # in no path


class ClipTable:
    """Clips of a corpus as columns, in an order that mixes speakers and scenes, the same
    everywhere; DavssError for two clips of one key.
    """

    def __init__(self, clips: Iterable[RawClip]) -> None:
        clips = iter(clips)
        chunks = []
        while chunk := list(islice(clips, CHUNK)):
            chunks.append(pyarrow.Table.from_pylist([_row(clip) for clip in chunk], _schema()))
        table = pyarrow.concat_tables(chunks) if chunks else _schema().empty_table()
        del chunks
        order = compute.sort_indices(table[_ORDER])
        columns = {}
        for name in _FIELDS:  # one by one, so that never all of them are there twice
            columns[name] = table[name].take(order).combine_chunks()
            table = table.drop_columns([name])
        self._table = pyarrow.table(columns)
        self._refuse_equal_keys()

    def __len__(self) -> int:
        return len(self._table)

    def clips(self, rows: Iterable[int] | None = None) -> Iterator[RawClip]:
        """The clips of those rows, or all of them."""
        wanted = iter(range(len(self)) if rows is None else rows)
        while chunk := list(islice(wanted, CHUNK)):
            for row in self._table.take(chunk).to_pylist():
                yield RawClip(**row | {name: _path(row[name], row["source"]) for name in _PATHS})

    def rows_of(self, split: str) -> np.ndarray:
        """Row numbers of a split's clips."""
        return np.flatnonzero(compute.equal(self._table["split"], split))

    def has_video(self) -> np.ndarray:
        """Which rows have a video: bool, one a row."""
        return self._table["video"].is_valid().to_numpy()

    def digest(self) -> str:
        """Of everything but where the files lie."""
        names = [name for name in _FIELDS if name not in _PATHS]
        state = hashlib.sha256()
        for batch in self._table.select(names).to_batches(CHUNK):
            for row in batch.to_pylist():
                state.update(json.dumps(row, sort_keys=True).encode())
        return state.hexdigest()

    def _refuse_equal_keys(self) -> None:
        # Equal keys have equal places in the order: they are neighbours.
        keys = self._table["key"]
        equal = np.flatnonzero(compute.equal(keys[1:], keys[:-1]))
        if len(equal):
            first, second = sorted(
                clip.source for clip in self.clips([int(equal[0]), int(equal[0]) + 1])
            )
            raise DavssError(f"{second}: has the same key as {first}; rename one")


@dataclass(frozen=True)
class PlannedShard:
    """Name of a shard, as `train-000000`, and rows of its clips in the table."""

    name: str
    rows: np.ndarray

    @property
    def split(self) -> str:
        """Split of all its clips."""
        return self.name.partition("-")[0]

    def pieces(self) -> list[tuple[str, np.ndarray]]:
        """Its clips in handfuls: name of each in the work folder, and rows."""
        starts = range(0, len(self.rows), PIECE)
        return [
            (f"{self.name}/{start // PIECE:04d}", self.rows[start : start + PIECE])
            for start in starts
        ]


def plan_shards(table: ClipTable, clips_per_shard: int) -> list[PlannedShard]:
    """Shards of about `clips_per_shard` clips, those of a split equally filled."""
    plan = []
    for split in SPLITS:
        rows = table.rows_of(split)
        count = -(-len(rows) // clips_per_shard)
        bounds = [len(rows) * number // max(count, 1) for number in range(count + 1)]
        for number in range(count):
            name = f"{split}-{number:06d}"
            plan.append(PlannedShard(name, rows[bounds[number] : bounds[number + 1]]))
    return plan


def _schema() -> pyarrow.Schema:
    fields = [pyarrow.field(name, pyarrow.string()) for name in _FIELDS]
    return pyarrow.schema([*fields, pyarrow.field(_ORDER, pyarrow.binary())])


def _row(clip: RawClip) -> dict[str, Any]:
    row = {name: getattr(clip, name) for name in _FIELDS}
    for name in _PATHS:
        if row[name] is not None:
            # A path mostly ends with `source`, which need not be kept twice.
            row[name] = str(row[name]).replace(clip.source, _SOURCE)
    return row | {_ORDER: hashlib.sha256(clip.key.encode()).digest()}


def _path(text: str | None, source: str) -> Path | str | None:
    if text is None:
        return None
    text = text.replace(_SOURCE, source)
    return text if text.startswith(S3) else Path(text)
