"""Check shards against their manifests: bytes, members, rates, lengths, speakers apart in test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pandas

from davss.corpora import SPLITS
from davss.errors import DavssError, StorageError
from davss.shards.contract import SCHEMA_VERSION, decode
from davss.shards.reader import check_shard, read_parquet
from davss.shards.tar import read_samples
from davss.storage import Store, open_store


def validate(manifest_dir: Path, storage: Path | Store) -> list[str]:
    """All problems of a corpus' shards, one line each; none: everything is as the manifests say.

    Every shard is read once, from first to last byte.
    """
    store = open_store(storage)
    problems: list[str] = []
    tables = {}
    for split in SPLITS:
        try:
            tables[split] = read_parquet(Path(manifest_dir) / f"{split}.clips.parquet")
            rows = read_parquet(Path(manifest_dir) / f"{split}.parquet")
        except DavssError as error:
            problems.append(str(error))
            continue
        for row in rows.itertuples():
            clips = tables[split][tables[split].shard == row.shard]
            try:
                check_shard(store, row.shard, row.bytes)
                problems += _shard_problems(store, row, clips)
            except DavssError as error:
                problems.append(str(error))
    return problems + (_table_problems(tables) if tables else [])


def _shard_problems(store: Store, row: Any, clips: pandas.DataFrame) -> list[str]:
    location = store.locate(row.shard)
    if row.schema_version != SCHEMA_VERSION:
        return [f"{location}: shard contract v{row.schema_version}, not v{SCHEMA_VERSION}"]
    with store.open(row.shard) as raw:
        stream = _Hashing(raw)
        try:
            # Clip by clip: a shard may have a gigabyte.
            problems = _clip_problems(read_samples(cast(BinaryIO, stream), location), clips)
        except StorageError:
            raise
        except DavssError as error:
            problems = [str(error).removeprefix(f"{location}: ")]
        if stream.digest() != row.sha256:
            problems = ["sha256 differs from the manifest; run the shards stage again"]
    return [f"{location}: {problem}" for problem in problems]


def _clip_problems(samples: Iterator[dict[str, Any]], clips: pandas.DataFrame) -> list[str]:
    problems, expected = [], list(clips.itertuples())
    for number, sample in enumerate(samples):
        clip = decode(sample)
        if number >= len(expected) or clip.key != expected[number].key:
            return ["keys differ from the manifest, or a key's members are not adjacent"]
        members = [name for name in sample if name != "__key__"]
        if members != sorted(members):
            problems.append(f"members of {clip.key} are not sorted")
        row, meta = expected[number], clip.meta
        frames = 0 if clip.lips is None else len(clip.lips)
        facts = (len(clip.audio), clip.sample_rate, frames, meta["speaker"], meta["split"])
        if facts != (row.num_samples, row.sample_rate, row.num_frames, row.speaker, row.split):
            problems.append(f"{clip.key} differs from its row in the manifest")
        expected[number] = None
    problems += [f"{row.key} of the manifest is missing" for row in expected if row is not None]
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
