"""Reading shards by key, for everything that is not training: mixtures, validation, examples."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pandas

from davss.errors import DavssError
from davss.shards.contract import SCHEMA_VERSION, Clip, decode
from davss.shards.tar import MEND, member_name
from davss.storage import Store, open_store


def read_clips_manifest(manifest_dir: Path, split: str) -> pandas.DataFrame:
    """The clips of a split, one row each; DavssError when the manifest is missing or empty, or
    names a clip twice.
    """
    path = Path(manifest_dir) / f"{split}.clips.parquet"
    clips = read_parquet(path)
    if clips.empty:
        raise DavssError(
            f"{path}: no clips in split '{split}'; enlarge that split or add recordings"
        )
    twice = clips.key[clips.key.duplicated()]
    if len(twice):
        raise DavssError(f"{path}: clip {twice.iloc[0]} comes twice; run the shards stage again")
    return clips


def read_shards_manifest(manifest_dir: Path, storage: Path | Store, split: str) -> list[str]:
    """Names of a split's shards in the storage, each checked to be there with its size."""
    manifest = Path(manifest_dir) / f"{split}.parquet"
    rows = read_parquet(manifest)
    if (rows.schema_version != SCHEMA_VERSION).any():
        raise DavssError(
            f"{manifest}: not shard contract v{SCHEMA_VERSION}; run the shards stage again"
        )
    store = open_store(storage)
    with ThreadPoolExecutor(16) as pool:  # a bucket is asked for one shard at a time
        list(pool.map(lambda shard, size: check_shard(store, shard, size), rows.shard, rows.bytes))
    return list(rows.shard)


def check_shard(store: Store, shard: str, size: int | None = None) -> None:
    """Raise DavssError when a manifest's `shard` is absent or was cut short."""
    path = PurePosixPath(shard)
    # Nothing but names below the storage, whatever a manifest may say.
    if path.is_absolute() or ".." in path.parts or ":" in shard:
        raise DavssError(f"{shard}: not a path relative to the storage; run the shards stage again")
    entry = store.stat(shard)
    if entry is None:
        raise DavssError(
            f"{store.locate(shard)}: shard is missing; set DAVSS_STORAGE or run "
            f"`{_rebuild(store, shard)}`"
        )
    if size is not None and entry.size != size:
        raise DavssError(
            f"{store.locate(shard)}: shard has not the size of its manifest; run "
            f"`{_rebuild(store, shard)}`"
        )


def _rebuild(store: Store, shard: str) -> str:
    return f"dvc repro -f -s shards@{PurePosixPath(store.locate(shard)).parent.name}"


def read_parquet(path: Path) -> pandas.DataFrame:
    """A manifest file; DavssError when it is missing or broken."""
    if not path.is_file():
        raise DavssError(f"{path}: no such manifest; run the shards stage first")
    try:
        return pandas.read_parquet(path)
    except (OSError, ValueError):
        raise DavssError(f"{path}: not a readable manifest; run the shards stage again") from None


class ShardReader:
    """Clips of one split by key: `reader[key]` → Clip; `.clips` is the manifest (one row per clip).

    Shards are indexed when first touched, those of a bucket copied to its store's cache, and no
    file stays open: a reader may be pickled.
    """

    def __init__(self, manifest_dir: Path, storage: Path | Store, split: str) -> None:
        self.manifest = Path(manifest_dir) / f"{split}.clips.parquet"
        self.storage = open_store(storage)
        self.split = split
        self.clips = read_clips_manifest(manifest_dir, split)
        self._shards = dict(zip(self.clips.key, self.clips.shard, strict=True))
        self._members: dict[str, dict[str, dict[str, tuple[int, int]]]] = {}

    @property
    def sample_rate(self) -> int:
        """Sample rate of all clips in Hz."""
        return int(self.clips.sample_rate.iloc[0])

    def __len__(self) -> int:
        return len(self.clips)

    def __contains__(self, key: str) -> bool:
        return key in self._shards

    def __iter__(self) -> Iterator[Clip]:
        return (self[key] for key in self.clips.key)

    def __getitem__(self, key: str) -> Clip:
        """The clip of `key`; DavssError names a key that the split or its shard lacks."""
        if key not in self._shards:
            raise DavssError(
                f"{key}: not in {self.manifest}; make mixtures and shards anew, together"
            )
        shard = self._shards[key]
        if shard not in self._members:
            check_shard(self.storage, shard)
            self._members[shard] = index_shard(self.storage.local(shard))
        path = self.storage.local(shard)
        members = self._members[shard].get(key)
        if members is None:
            raise DavssError(f"{key}: not in shard {path}; run the shards stage again")
        return decode(read_members(path, key, members))


def read_members(path: Path, key: str, members: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """A sample as webdataset knows it, `__key__` and the raw bytes of each member."""
    sample: dict[str, Any] = {"__key__": key}
    with open(path, "rb") as stream:
        for suffix, (offset, size) in members.items():
            stream.seek(offset)
            sample[suffix] = stream.read(size)
    return sample


def index_shard(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """key → member suffix → (offset, size) of a shard, in the order of the file."""
    index: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                key, suffix = member_name(member, str(path))
                members = index.setdefault(key, {})
                if suffix in members:
                    raise DavssError(f"{path}: {member.name} comes twice; {MEND}")
                members[suffix] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError):
        raise DavssError(f"{path}: not a readable shard; {MEND}") from None
    return index
