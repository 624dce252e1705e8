"""Check shards against their manifests: bytes, members, rates, lengths, speakers apart in test."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import pandas

from davss.errors import DavssError, StorageError
from davss.shards.contract import SCHEMA_VERSION, SPLITS, decode
from davss.shards.manifests import CLIPS, SHARDS, read_table
from davss.shards.members import BLOCK, MEND, PLACES, extent, first_misplaced, take_apart
from davss.shards.reader import check_shard
from davss.storage import Store, open_store


def validate(manifest_dir: Path, storage: Path | Store) -> list[str]:
    """All problems of a corpus' shards, one line each; none: everything is as the manifests say.

    Every shard is read once, from first to last byte.
    """
    store = open_store(storage)
    problems: list[str] = []
    tables = {}
    for split in SPLITS:
        path = Path(manifest_dir) / f"{split}.clips.parquet"
        try:
            tables[split] = read_table(path, CLIPS)
            rows = read_table(Path(manifest_dir) / f"{split}.parquet", SHARDS)
        except DavssError as error:
            problems.append(str(error))
            continue
        clips = dict(iter(tables[split].groupby("shard")))
        for row in rows.itertuples():
            try:
                check_shard(store, row.shard, row.bytes)
                problems += _shard_problems(store, row, clips.pop(row.shard, tables[split][:0]))
            except DavssError as error:
                problems.append(str(error))
        problems += [f"{path}: {shard} is not in {split}.parquet; {MEND}" for shard in clips]
    return problems + (_table_problems(tables) if tables else [])


def _shard_problems(store: Store, row: Any, clips: pandas.DataFrame) -> list[str]:
    location = store.locate(row.shard)
    if row.schema_version != SCHEMA_VERSION:
        return [f"{location}: shard contract v{row.schema_version}, not v{SCHEMA_VERSION}"]
    with store.open(row.shard) as raw:
        stream = _Hashing(raw)
        try:
            problems = _clip_problems(stream, clips.sort_values("audio_offset"), row.bytes)
        except StorageError:
            raise
        except DavssError as error:
            problems = [str(error)]
        if stream.digest() != row.sha256:
            problems = [f"sha256 differs from the manifest; {MEND}"]
    return [f"{location}: {problem}" for problem in problems]


def _clip_problems(stream: _Hashing, clips: pandas.DataFrame, size: int) -> list[str]:
    """Problems of a shard's clips, which lie one behind the other; read one by one, for a shard may
    have a gigabyte.
    """
    problems: list[str] = []
    position = 0
    if (key := first_misplaced(clips)) is not None:
        return [f"members of {key} lie outside the shard; {MEND}"]
    for row, places in zip(clips.itertuples(), clips[PLACES].to_numpy(), strict=True):
        start, end = extent(places)
        if end > size:
            return [*problems, f"shorter than its manifest says; {MEND}"]
        if start != position:
            return [*problems, f"{row.key} does not begin where the clip before it ends; {MEND}"]
        clip = decode(take_apart(stream.read(end - start), places, row.key))
        position = end + len(stream.read(-end % BLOCK))
        facts = (
            clip.key,
            len(clip.audio),
            clip.sample_rate,
            0 if clip.lips is None else len(clip.lips),
        )
        said = (row.key, row.num_samples, row.sample_rate, row.num_frames)
        if facts != said or (clip.meta["speaker"], clip.meta["split"]) != (row.speaker, row.split):
            problems.append(f"{row.key} differs from its row in the manifest")
    if any(stream.read(1 << 16)):
        problems.append("holds more than the manifest says")
    return problems


class _Hashing:
    """A stream that digests what is read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.state = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self.stream.read(size)
        self.state.update(data)
        return data

    def digest(self) -> str:
        """SHA-256 of the whole stream, whose rest is read for it."""
        while self.read(1 << 20):
            pass
        return self.state.hexdigest()


def _table_problems(tables: dict[str, pandas.DataFrame]) -> list[str]:
    clips = pandas.concat([table.assign(split=split) for split, table in tables.items()])
    problems = [f"{key}: occurs twice" for key in clips.key[clips.key.duplicated()]]
    if clips.sample_rate.nunique() > 1:
        problems.append(f"sample rates differ: {sorted(clips.sample_rate.unique())}")
    known = clips[clips.speaker != ""]
    seen = set(known.speaker[known.split != "test"])
    leaked = sorted(seen & set(known.speaker[known.split == "test"]))
    problems += [f"speaker {name}: in test and in train or valid" for name in leaked]
    return problems
