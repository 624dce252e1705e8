"""Raw clips → shards: a list of clips becomes a shard, and all of them manifests.

Contents depend on the clips and settings alone: same input, same bytes, same sha256.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas
import webdataset

from davss.config import ShardsConfig
from davss.corpora import SPLITS, RawClip
from davss.errors import DavssError
from davss.networks.eigenlips import VisualEncoder
from davss.shards.contract import META, SCHEMA_VERSION
from davss.shards.sample import make_sample
from davss.storage import publish, sha256

SHARD_COLUMNS = ["shard", "split", "bytes", "sha256", "samples", "seconds", "schema_version"]
SHARD_COLUMNS += ["source_digest"]
CLIP_COLUMNS = ["key", "split", "speaker", "shard", "num_samples", "num_frames", "seconds"]
CLIP_COLUMNS += ["sample_rate", "source"]


@dataclass
class ShardResult:
    """What became of a list of clips: rows of shard (None if all fell out), clips, rejects."""

    shard: dict[str, Any] | None
    clips: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)


def write_shard(
    clips: list[RawClip],
    name: str,
    folder: str,
    storage: Path,
    config: ShardsConfig,
    encoder: VisualEncoder | None,
) -> ShardResult:
    """Write `clips` into `storage/folder/NAME-<sha256>.tar`; unusable ones become rejects."""
    result = ShardResult(None)
    with publish(storage / folder / f"{name}.tar.part") as temporary:
        with open(temporary, "wb") as stream, _tar_writer(stream) as writer:
            for clip in clips:
                try:
                    sample = make_sample(clip, config, encoder)
                except DavssError as error:
                    result.rejects.append({"source": clip.source, "reason": str(error)})
                    continue
                writer.write(sample)
                result.clips.append(_clip_row(sample))
        if not result.clips:
            temporary.unlink()
            return result
        # Named by content: an existing shard is never overwritten by another one.
        digest = sha256(temporary)
        shard = f"{folder}/{name}-{digest[:12]}.tar"
        size = temporary.stat().st_size
        temporary.replace(storage / shard)
    for row in result.clips:
        row["shard"] = shard
    seconds = sum(row["seconds"] for row in result.clips)
    counts = {"samples": len(result.clips), "seconds": round(seconds, 3)}
    result.shard = {"shard": shard, "split": clips[0].split, "bytes": size, "sha256": digest}
    result.shard |= counts | {"schema_version": SCHEMA_VERSION}
    return result


def _tar_writer(stream: Any) -> webdataset.TarWriter:
    return webdataset.TarWriter(stream, encoder=False, mtime=0, user="davss", group="davss")


def _clip_row(sample: dict[str, Any]) -> dict[str, Any]:
    meta = json.loads(sample[META])
    row = {name: meta.get(name) for name in CLIP_COLUMNS}
    seconds = meta["num_samples"] / meta["sample_rate"]
    return row | {
        "key": sample["__key__"],
        "seconds": seconds,
        "num_frames": meta["num_frames"] or 0,
    }


def write_manifests(results: list[ShardResult], source_digest: str, folder: Path) -> None:
    """Write {train,valid,test}.parquet, .clips.parquet and rejects.parquet into `folder`."""
    rejects = [row for result in results for row in result.rejects]
    _to_parquet(rejects, ["source", "reason"], folder / "rejects.parquet")
    for split in SPLITS:
        mine = [result for result in results if result.shard and result.shard["split"] == split]
        shards = [{**(result.shard or {}), "source_digest": source_digest} for result in mine]
        clips = [row for result in mine for row in result.clips]
        _to_parquet(shards, SHARD_COLUMNS, folder / f"{split}.parquet")
        _to_parquet(clips, CLIP_COLUMNS, folder / f"{split}.clips.parquet")


def _to_parquet(rows: list[dict[str, Any]], columns: list[str], path: Path) -> None:
    pandas.DataFrame(rows, columns=columns).to_parquet(path, index=False)
