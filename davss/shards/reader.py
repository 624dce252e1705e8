"""Reading shards by key, for everything that is not training: mixtures, validation, examples."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas

from davss.errors import DavssError
from davss.shards.contract import SCHEMA_VERSION, Clip, decode


def read_clips_manifest(manifest_dir: Path, split: str) -> pandas.DataFrame:
    """The clips of a split, one row each; DavssError when the manifest is missing or empty."""
    path = Path(manifest_dir) / f"{split}.clips.parquet"
    clips = read_parquet(path)
    if clips.empty:
        raise DavssError(
            f"{path}: no clips in split '{split}'; enlarge that split or add recordings"
        )
    return clips


def read_shards_manifest(manifest_dir: Path, storage: Path, split: str) -> list[Path]:
    """Paths of a split's shards, each checked to be present with its size."""
    manifest = Path(manifest_dir) / f"{split}.parquet"
    rows = read_parquet(manifest)
    if (rows.schema_version != SCHEMA_VERSION).any():
        raise DavssError(
            f"{manifest}: not shard contract v{SCHEMA_VERSION}; run the shards stage again"
        )
    sizes = zip(rows.shard, rows.bytes, strict=True)
    return [shard_path(storage, shard, size) for shard, size in sizes]


def shard_path(storage: Path, shard: str, size: int | None = None) -> Path:
    """Where a manifest's `shard` lies; DavssError when it is absent or was cut short."""
    relative = PurePosixPath(shard)
    # webdataset would run `pipe:` names as commands: accept nothing but paths inside the storage.
    if relative.is_absolute() or ".." in relative.parts or ":" in shard:
        raise DavssError(f"{shard}: not a path relative to the storage; run the shards stage again")
    path = Path(storage) / relative
    if not path.is_file():
        raise DavssError(
            f"{path}: shard is missing; set DAVSS_STORAGE or run `dvc repro -f -s shards`"
        )
    if size is not None and path.stat().st_size != size:
        raise DavssError(
            f"{path}: shard has not the size of its manifest; run the shards stage again"
        )
    return path


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

    Shards are indexed when first touched and no file stays open: a reader may be pickled.
    """

    def __init__(self, manifest_dir: Path, storage: Path, split: str) -> None:
        self.manifest = Path(manifest_dir) / f"{split}.clips.parquet"
        self.storage = Path(storage)
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
        path = shard_path(self.storage, shard)
        if shard not in self._members:
            self._members[shard] = _index(path)
        members = self._members[shard].get(key)
        if members is None:
            raise DavssError(f"{key}: not in shard {path}; run the shards stage again")
        sample: dict = {"__key__": key}
        with open(path, "rb") as stream:
            for suffix, (offset, size) in members.items():
                stream.seek(offset)
                sample[suffix] = stream.read(size)
        return decode(sample)


def _index(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """key → member suffix → (offset, size) of a shard."""
    index: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, suffix = member.name.partition(".")
                index.setdefault(key, {})[suffix] = (member.offset_data, member.size)
    except tarfile.TarError:
        raise DavssError(f"{path}: not a readable shard; run the shards stage again") from None
    return index
