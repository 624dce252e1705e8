"""Raw clips → shards, in two steps: handfuls of clips become pieces, the pieces of a shard a shard.

Contents depend on the clips and settings alone: same input, same bytes, same sha256. A piece is the
members of a tar file without its end, so pieces one after another are a shard. Beside each lies a
note, written last, that says what it was made of: work with a note is not done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import webdataset

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError, StorageError, outages_explained
from davss.networks.eigenlips import VisualEncoder
from davss.shards.contract import META, SCHEMA_VERSION
from davss.shards.manifests import ShardResult
from davss.shards.members import BLOCK, PLACES, places_of
from davss.shards.sample import Recording, finish_sample, read_recording
from davss.shards.sources import contents, on_this_machine, version, without_root
from davss.storage import Store, sha256

BATCH_FRAMES = 4000  # video frames whose features are computed together
_RECORD = 10_240  # a tar file ends with two empty blocks and fills its last record
_COPY = 1 << 20
_DEADLY = "decoding it ends the process; encode it again"
_FROM_META = ("split", "speaker", "num_samples", "sample_rate", "source")


def write_piece(
    clips: list[RawClip],
    name: str,
    store: Store,
    config: ShardsConfig,
    encoder: VisualEncoder | None,
    unreadable: Collection[str] = (),
) -> None:
    """Write `clips` into NAME.tar of the store and what became of them into NAME.json, unless that
    has been done. Clips that cannot be used are rejects, as are those whose key is `unreadable`.
    """
    versions = _versions(clips)
    done = read_note(store, f"{name}.json")
    if done is not None and done.versions == versions and _is_whole(store, f"{name}.tar", done):
        return
    result = ShardResult(None, versions=versions)
    with store.scratch(name.rpartition("/")[0]) as scratch:
        piece = scratch / "piece.tar"
        with open(piece, "wb") as stream, _tar_writer(stream) as writer:
            for row, sample in _samples(clips, scratch, config, encoder, unreadable, result):
                result.clips.append(row | places_of(sample, writer.tarstream.offset))
                writer.write(sample)
            end = writer.tarstream.offset
        os.truncate(piece, end)
        if result.clips:
            result.shard = {"bytes": end, "sha256": sha256(piece)}
            store.put(piece, f"{name}.tar")
        _write_note(result, store, f"{name}.json", scratch)


def assemble(pieces: list[str], name: str, folder: str, notes: str, store: Store) -> ShardResult:
    """Put finished pieces together as FOLDER/NAME-<sha256>.tar of the store; what became of all
    their clips goes to NOTES/NAME.json, and is returned. The pieces are left.
    """
    result = ShardResult(None)
    with store.scratch(f"{notes}/{name}") as scratch:
        path = scratch / "shard.tar"
        with open(path, "wb") as stream:
            for piece in pieces:
                note = read_note(store, f"{piece}.json")
                if note is None:
                    raise DavssError(f"{store.locate(piece)}.json: gone; run the stage again")
                result.clips += [_moved(row, stream.tell()) for row in note.clips]
                result.rejects += note.rejects
                result.versions += note.versions
                if note.shard is not None:
                    _append(stream, store, f"{piece}.tar", note.shard["sha256"])
            size = stream.tell()
            padded = -(-(size + 2 * BLOCK) // _RECORD) * _RECORD
            stream.write(bytes(padded - size))
        if result.clips:
            result.shard = _shard_row(path, name, folder, result.clips)
            # Named by content: an existing shard is never overwritten by another one.
            store.put(path, result.shard["shard"])
        for row in result.clips:
            row["shard"] = result.shard["shard"] if result.shard else None
        _write_note(result, store, f"{notes}/{name}.json", scratch)
    return result


def recall(clips: list[RawClip], note: str, store: Store) -> ShardResult | None:
    """What became of a finished shard, or None: its recordings have changed since, or it is gone
    or damaged.
    """
    result = read_note(store, note)
    if result is None or result.versions != _versions(clips):
        return None
    if result.shard is None:
        return result
    name = result.shard["shard"]
    entry = store.stat(name)
    if entry is None or entry.size != result.shard["bytes"]:
        return None
    with store.open(name) as stream:
        return result if _digest(stream) == result.shard["sha256"] else None


def read_note(store: Store, name: str) -> ShardResult | None:
    """The note of that name, or None."""
    if store.stat(name) is None:
        return None
    with store.open(name) as stream:
        return ShardResult(**json.loads(stream.read()))


def _samples(
    clips: list[RawClip],
    scratch: Path,
    config: ShardsConfig,
    encoder: VisualEncoder | None,
    unreadable: Collection[str],
    result: ShardResult,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows and samples of the clips that can be used, in order; the others go to the rejects."""
    batch: list[tuple[Recording, str]] = []
    frames = 0
    for clip in clips:
        digest = ""
        try:
            with on_this_machine(clip, scratch) as local:
                try:
                    with outages_explained(clip.source):
                        digest = contents(local)
                    if clip.key in unreadable:
                        raise DavssError(f"{clip.source}: {_DEADLY}")
                    recording = read_recording(local, config, encoder is not None)
                except StorageError:
                    raise
                except (DavssError, OSError) as error:
                    raise DavssError(without_root(str(error), clip, local)) from None
        except StorageError:
            raise  # the fault of no clip
        except DavssError as error:
            result.rejects.append(_reject(clip, error, digest))
            continue
        batch.append((recording, digest))
        frames += 0 if recording.mouth is None else len(recording.mouth)
        if frames >= BATCH_FRAMES:
            yield from _finish(batch, config, encoder, result)
            batch, frames = [], 0
    yield from _finish(batch, config, encoder, result)


def _finish(
    batch: list[tuple[Recording, str]],
    config: ShardsConfig,
    encoder: VisualEncoder | None,
    result: ShardResult,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    mouths = [recording.mouth for recording, _ in batch if recording.mouth is not None]
    features = iter(encoder.batch(mouths) if encoder is not None and mouths else ())
    for recording, digest in batch:
        lips = next(features) if recording.mouth is not None else None
        try:
            sample = finish_sample(recording, lips, config)
        except DavssError as error:
            result.rejects.append(_reject(recording.clip, error, digest))
            continue
        yield _clip_row(sample, digest) | recording.quality, sample


def _reject(clip: RawClip, error: DavssError, digest: str) -> dict[str, Any]:
    facts = {"path": clip.source, "split": clip.split, "reason": str(error)}
    return facts | {"source_sha256": digest}


def _clip_row(sample: dict[str, Any], digest: str) -> dict[str, Any]:
    meta = json.loads(sample[META])
    row = {"key": sample["__key__"]} | {name: meta[name] for name in _FROM_META}
    seconds = meta["num_samples"] / meta["sample_rate"]
    row |= {"seconds": seconds, "num_frames": meta["num_frames"] or 0}
    return row | {"source_sha256": digest}


def _shard_row(
    path: Path, name: str, folder: str, clips: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    digest = sha256(path)
    clips = list(clips)
    row: dict[str, Any] = {"shard": f"{folder}/{name}-{digest[:12]}.tar"}
    row |= {"split": clips[0]["split"], "bytes": path.stat().st_size, "sha256": digest}
    seconds = sum(clip["seconds"] for clip in clips)
    counts = {"samples": len(clips), "seconds": round(seconds, 3)}
    return row | counts | {"schema_version": SCHEMA_VERSION}


def _moved(row: dict[str, Any], start: int) -> dict[str, Any]:
    """A clip's row, its members so many bytes farther."""
    offsets = {name: row[name] + start for name in PLACES[::2] if row[name]}
    return row | offsets


def _tar_writer(stream: BinaryIO) -> webdataset.TarWriter:
    return webdataset.TarWriter(stream, encoder=False, mtime=0, user="davss", group="davss")


def _append(stream: BinaryIO, store: Store, name: str, expected: str) -> None:
    with store.open(name) as piece:
        if _digest(piece, stream) != expected:
            store.remove(name)
            raise DavssError(f"{store.locate(name)}: damaged and removed; run the stage again")


def _digest(stream: BinaryIO, copy: BinaryIO | None = None) -> str:
    """SHA-256 of what is left of a stream, written to `copy` on the way."""
    state = hashlib.sha256()
    while block := stream.read(_COPY):
        state.update(block)
        if copy is not None:
            copy.write(block)
    return state.hexdigest()


def _is_whole(store: Store, name: str, result: ShardResult) -> bool:
    if result.shard is None:
        return True
    entry = store.stat(name)
    return entry is not None and entry.size == result.shard["bytes"]


def _versions(clips: list[RawClip]) -> list[str]:
    with ThreadPoolExecutor(8) as pool:  # a bucket is asked for one clip at a time
        return list(pool.map(version, clips))


def _write_note(result: ShardResult, store: Store, name: str, scratch: Path) -> None:
    path = scratch / "note.json"
    path.write_text(json.dumps(dataclasses.asdict(result)))
    store.put(path, name)
