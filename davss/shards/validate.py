"""Check shards against their manifests: bytes, members, rates, lengths, speakers apart in test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas
import webdataset

from davss.corpora import SPLITS
from davss.errors import DavssError
from davss.shards.contract import Clip, decode
from davss.shards.reader import read_parquet, read_shards_manifest
from davss.storage import sha256


def validate(manifest_dir: Path, storage: Path) -> list[str]:
    """All problems of a corpus' shards, one line each; none: everything is as the manifests say."""
    problems: list[str] = []
    tables = {}
    for split in SPLITS:
        try:
            tables[split] = read_parquet(Path(manifest_dir) / f"{split}.clips.parquet")
            paths = read_shards_manifest(manifest_dir, storage, split)
            rows = read_parquet(Path(manifest_dir) / f"{split}.parquet")
        except DavssError as error:
            problems.append(str(error))
            continue
        for path, row in zip(paths, rows.itertuples(), strict=True):
            clips = tables[split][tables[split].shard == row.shard]
            problems += _shard_problems(path, row.sha256, clips)
    return problems + _table_problems(tables)


def _shard_problems(path: Path, expected: str, clips: pandas.DataFrame) -> list[str]:
    if sha256(path) != expected:
        return [f"{path}: sha256 differs from the manifest; run the shards stage again"]
    try:
        found = list(_clips(path))
    except DavssError as error:
        return [f"{path}: {error}"]
    if [clip.key for clip in found] != list(clips.key):
        return [f"{path}: keys differ from the manifest, or a key's members are not adjacent"]
    problems = []
    for clip, row in zip(found, clips.itertuples(), strict=True):
        frames = 0 if clip.lips is None else len(clip.lips)
        facts = (len(clip.audio), clip.sample_rate, frames, clip.meta["speaker"])
        if facts != (row.num_samples, row.sample_rate, row.num_frames, row.speaker):
            problems.append(f"{path}: {clip.key} differs from its row in the manifest")
    return problems


def _clips(path: Path) -> Iterator[Clip]:
    samples = webdataset.tarfile_to_samples()([{"url": str(path)}])
    return (decode(sample) for sample in samples)


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
