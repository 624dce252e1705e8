"""Reading shards by key, for everything that is not training: mixtures, validation, examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any

import pandas

from davss.errors import DavssError
from davss.shards.contract import SCHEMA_VERSION, Clip, decode
from davss.shards.manifests import CLIPS, SHARDS, read_table
from davss.shards.members import MEND, PLACES, first_misplaced, read_sample
from davss.storage import Store, open_store


def read_clips_manifest(manifest_dir: Path, split: str) -> pandas.DataFrame:
    """The clips of a split, one row each; DavssError when the manifest is missing, empty, or of an
    earlier davss, or names a clip twice.
    """
    path = Path(manifest_dir) / f"{split}.clips.parquet"
    clips = read_table(path, CLIPS)
    if clips.empty:
        raise DavssError(
            f"{path}: no clips in split '{split}'; enlarge that split or add recordings"
        )
    twice = clips.key[clips.key.duplicated()]
    if len(twice):
        raise DavssError(f"{path}: clip {twice.iloc[0]} comes twice; {MEND}")
    misplaced = first_misplaced(clips)
    if misplaced is not None:
        raise DavssError(f"{path}: members of {misplaced} lie outside the shard; {MEND}")
    return clips


def read_shards_manifest(manifest_dir: Path, storage: Path | Store, split: str) -> list[str]:
    """Names of a split's shards in the storage, each checked to be there with its size."""
    manifest = Path(manifest_dir) / f"{split}.parquet"
    rows = read_table(manifest, SHARDS)
    if (rows.schema_version != SCHEMA_VERSION).any():
        raise DavssError(
            f"{manifest}: not shard contract v{SCHEMA_VERSION}; run the shards stage again"
        )
    _check_shards(open_store(storage), rows.shard, rows.bytes)
    return list(rows.shard)


def _check_shards(store: Store, shards: Iterable[str], sizes: Iterable[int | None]) -> None:
    with ThreadPoolExecutor(16) as pool:  # a bucket is asked for one shard at a time
        list(pool.map(partial(check_shard, store), shards, sizes))


def check_shard(store: Store, shard: str, size: int | None = None) -> None:
    """Raise DavssError when a manifest's `shard` is absent or was cut short."""
    path = PurePosixPath(shard)
    # Nothing but names below the storage, whatever a manifest may say.
    if path.is_absolute() or ".." in path.parts or ":" in shard:
        raise DavssError(f"{shard}: not a path relative to the storage; {MEND}")
    entry = store.stat(shard)
    if entry is None:
        raise DavssError(
            f"{store.locate(shard)}: shard is missing; set DAVSS_STORAGE to the storage that it is "
            f"in, or run `{_rebuild(store, shard)}`"
        )
    if size is not None and entry.size != size:
        raise DavssError(
            f"{store.locate(shard)}: shard has not the size of its manifest; run "
            f"`{_rebuild(store, shard)}`"
        )


def _rebuild(store: Store, shard: str) -> str:
    return f"dvc repro -f -s shards@{PurePosixPath(store.locate(shard)).parent.name}"


class ShardReader:
    """Clips of one split by key: `reader[key]` → Clip; `.clips` is the manifest (one row per clip).

    DavssError for a manifest that cannot be used and a shard that is not there. Shards of a bucket
    are copied to its store's cache, and no file stays open: a reader may be pickled.
    """

    def __init__(self, manifest_dir: Path, storage: Path | Store, split: str) -> None:
        self.manifest = Path(manifest_dir) / f"{split}.clips.parquet"
        self.storage = open_store(storage)
        self.split = split
        self.clips = read_clips_manifest(manifest_dir, split)
        _check_shards(self.storage, self.clips.shard.unique(), repeat(None))
        self._places = self.clips[PLACES].to_numpy()
        self._rows = {key: row for row, key in enumerate(self.clips.key)}

    @property
    def sample_rate(self) -> int:
        """Sample rate of all clips in Hz."""
        return int(self.clips.sample_rate.iloc[0])

    def __len__(self) -> int:
        return len(self.clips)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[Clip]:
        return (self[key] for key in self.clips.key)

    def __getitem__(self, key: str) -> Clip:
        """The clip of `key`; DavssError names a key that the split or its shard lacks."""
        if key not in self._rows:
            raise DavssError(
                f"{key}: not in {self.manifest}; rebuild mixtures and shards, together"
            )
        row = self._rows[key]
        shard = self.clips.shard.iloc[row]
        clip = decode(sample_of(self.storage, shard, self._places[row]))
        if clip.key != key:
            raise DavssError(f"{key}: not where {self.manifest} says in {shard}; {MEND}")
        return clip


def sample_of(store: Store, shard: str, places: Sequence[int]) -> dict[str, Any]:
    """A sample as webdataset knows it: `__key__` and the raw bytes of each member."""
    try:
        path = store.local(shard)
        with open(path, "rb") as stream:
            return read_sample(stream, places, str(path))
    except FileNotFoundError:
        raise DavssError(f"{store.locate(shard)}: disappeared; run the stage again") from None
    except DavssError:
        check_shard(store, shard)  # a shard that is not there is told with the mend
        raise
