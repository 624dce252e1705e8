"""Manifests of shards: parquet tables of shards, clips and rejects.

They are written row group by row group, so that a million clips need no more memory than some
thousand, and read with their columns checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
from pyarrow import compute

from davss.errors import DavssError
from davss.shards.contract import SPLITS
from davss.shards.members import MEND, PLACES

_TEXT, _COUNT, _REAL = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
SHARDS = {"shard": _TEXT, "split": _TEXT, "bytes": _COUNT, "sha256": _TEXT, "samples": _COUNT}
SHARDS |= {"seconds": _REAL, "schema_version": _COUNT, "source_digest": _TEXT}
CLIPS = {"key": _TEXT, "split": _TEXT, "speaker": _TEXT, "shard": _TEXT, "num_samples": _COUNT}
CLIPS |= {"num_frames": _COUNT, "seconds": _REAL, "sample_rate": _COUNT, "source": _TEXT}
CLIPS |= {"source_sha256": _TEXT}
CLIPS |= dict.fromkeys(PLACES, _COUNT)
# of speech: see corpora.filters.SpeechQuality and media.mouth.FaceQuality
QUALITY = {"active": _REAL, "snr_db": _REAL, "faces": _COUNT, "share": _REAL, "score": _REAL}
QUALITY |= {"jitter": _REAL, "turned": _REAL}
REJECTS = {"path": _TEXT, "split": _TEXT, "reason": _TEXT, "source_sha256": _TEXT}
ROW_GROUP = 20_000


@dataclass
class ShardResult:
    """What became of a list of clips: rows of shard (None if all fell out), clips, rejects.

    `versions` are those of the clips' files; of a piece `shard` has bytes and sha256 only.
    """

    shard: dict[str, Any] | None
    clips: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


def read_table(path: Path, columns: dict[str, pyarrow.DataType]) -> pandas.DataFrame:
    """Those columns of a manifest; DavssError when it is missing or broken, or has gaps."""
    if not path.is_file():
        raise DavssError(f"{path}: no such manifest; run the shards stage first")
    try:
        table = pyarrow.parquet.ParquetFile(path).read()
        absent = [name for name in columns if name not in table.column_names]
        if absent:
            raise DavssError(f"{path}: no '{absent[0]}': written by another version; {MEND}")
        table = table.select(list(columns)).cast(pyarrow.schema(list(columns.items())))
        bad = [name for name in columns if table[name].null_count or _unprintable(table[name])]
    except (OSError, ValueError, pyarrow.ArrowException):
        raise DavssError(f"{path}: not a readable manifest; {MEND}") from None
    if bad:
        raise DavssError(f"{path}: a row has no '{bad[0]}'; {MEND}")
    return table.to_pandas()


def _unprintable(column: pyarrow.ChunkedArray) -> bool:
    """Whether a text would break a line of what is told of it."""
    text = column.type == _TEXT
    return text and compute.any(compute.match_substring_regex(column, r"[\x00-\x1f]")).as_py()


def write_manifests(results: Iterable[ShardResult], folder: Path) -> str:
    """Write {train,valid,test}.parquet, .clips.parquet and rejects.parquet into `folder`; results
    are gone through once, in the order of the plan. Returns the digest of all recordings.
    """
    names = [f"{split}.clips" for split in SPLITS]
    tables = {name: _Table(folder / f"{name}.parquet", CLIPS | QUALITY) for name in names}
    tables["rejects"] = _Table(folder / "rejects.parquet", REJECTS)
    shards: list[dict[str, Any]] = []
    contents = hashlib.sha256()
    try:
        for result in results:
            tables["rejects"].add(result.rejects)
            if result.shard is not None:
                tables[f"{result.shard['split']}.clips"].add(result.clips)
                shards.append(result.shard)
            for row in [*result.clips, *result.rejects]:
                source = row.get("source") or row["path"]
                facts = [row.get("key"), row["split"], source, row["source_sha256"]]
                contents.update(json.dumps(facts).encode())
    finally:
        for table in tables.values():
            table.close()
    digest = contents.hexdigest()[:12]
    for split in SPLITS:
        table = _Table(folder / f"{split}.parquet", SHARDS)
        table.add([row | {"source_digest": digest} for row in shards if row["split"] == split])
        table.close()
    return digest


class _Table:
    """A parquet file that is written as rows come."""

    def __init__(self, path: Path, columns: dict[str, pyarrow.DataType]) -> None:
        self.schema = pyarrow.schema(list(columns.items()))
        self.writer = pyarrow.parquet.ParquetWriter(path, self.schema)
        self.rows: list[dict[str, Any]] = []

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows."""
        self.rows += rows
        if len(self.rows) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        if self.rows:
            self.writer.write_table(pyarrow.Table.from_pylist(self.rows, self.schema))
        self.rows = []
