"""The driver of the shards stage: clips → shards in parallel Ray tasks, one per shard, then
manifests.

A corpus is cut into shards before anything is decoded, so tasks need no coordination, and finished
shards are found again by a note: an interrupted build goes on where it stopped, nothing is done
twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ray
from tqdm import tqdm

from davss.config import ShardsConfig, digest
from davss.corpora import SPLITS, RawClip
from davss.errors import DavssError
from davss.media import audio, decoding, mouth, video
from davss.networks import eigenlips
from davss.networks.eigenlips import Eigenlips
from davss.ray_session import ray_running
from davss.shards import contract, sample, writer
from davss.shards.contract import FPS
from davss.shards.sample import read_mouth
from davss.shards.writer import ShardResult, write_manifests, write_shard
from davss.storage import code_digests, publish, sha256

# Shards made by other code are made again; the manifests change only if the shards do.
_CODE = (audio, decoding, mouth, video, eigenlips, contract, sample, writer)


def build_shards(
    corpus: str, clips: Iterable[RawClip], config: ShardsConfig, manifest_dir: Path, storage: Path
) -> list[ShardResult]:
    """Build or reuse all shards of a corpus in `storage`, then publish its manifests as
    `manifest_dir`.

    Clips that cannot be used are listed in rejects.parquet; DavssError when no clip is left.
    """
    clips = _unique(clips)
    if config.visual_encoder == "braven" and any(clip.video for clip in clips):
        raise DavssError(
            "shards.visual_encoder: BRAVEn features are not built yet; set it to eigenlips"
        )
    contract.samples_per_frame(config.sample_rate)
    source_digest = _source_digest(clips)
    folder = f"shards/{corpus}"
    notes = storage / folder / f"build-{digest(config, source_digest, code_digests(_CODE))}"
    with ray_running(len(os.sched_getaffinity(0))):
        encoder = _encoder(clips, config, notes)
        results = _shards(_plan(clips, config, encoder), folder, storage, notes, config, encoder)
    _refuse_nothing(corpus, results)
    with publish(manifest_dir) as temporary:
        temporary.mkdir()
        write_manifests(results, source_digest, temporary)
        if encoder is not None:
            encoder.save(temporary / "eigenlips.safetensors")
    return results


def _unique(clips: Iterable[RawClip]) -> list[RawClip]:
    """Clips in an order that mixes speakers and scenes, the same everywhere; keys must differ."""
    seen: dict[str, RawClip] = {}
    for clip in clips:
        if clip.key in seen:
            raise DavssError(
                f"{clip.source}: has the same key as {seen[clip.key].source}; rename one"
            )
        seen[clip.key] = clip
    return sorted(seen.values(), key=lambda clip: hashlib.sha256(clip.key.encode()).digest())


def _source_digest(clips: list[RawClip]) -> str:
    """Digest of contents, keys, splits and speakers, wherever the root may lie."""
    files = sorted({path for clip in clips for path in (clip.audio, clip.video) if path})
    with ThreadPoolExecutor(8) as pool:
        hashes = dict(zip(files, pool.map(sha256, files), strict=True))
    facts = [
        [clip.key, clip.split, clip.speaker, clip.source, hashes[clip.audio]]
        + [hashes[clip.video] if clip.video else ""]
        for clip in clips
    ]
    return digest(facts)


def _map(function: Callable, arguments: list[tuple], description: str) -> Iterator[Any]:
    """Results of function(*argument) from Ray tasks, in order; bounded in flight, so in memory."""
    task = ray.remote(function)
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: deque = deque()
    with tqdm(total=len(arguments), desc=description, disable=not arguments) as bar:
        for argument in arguments:
            if len(pending) >= limit:
                yield ray.get(pending.popleft())
                bar.update()
            pending.append(task.remote(*argument))
        while pending:
            yield ray.get(pending.popleft())
            bar.update()


def _encoder(clips: list[RawClip], config: ShardsConfig, notes: Path) -> Eigenlips | None:
    """Eigenlips fitted to the first train clips (their order is random already), or as stored."""
    train = [clip for clip in clips if clip.split == "train" and clip.video is not None]
    if not any(clip.video for clip in clips):
        return None
    stored = notes / "eigenlips.safetensors"
    if not stored.is_file():
        chosen = [(clip,) for clip in train[: config.encoder_fit_clips]]
        mouths = _found(_map(_mouth_or_reason, chosen, "eigenlips: mouths"))
        encoder = Eigenlips.fit(mouths, config.num_components)
        encoder.save(stored)
    return Eigenlips.load(stored)


def _mouth_or_reason(clip: RawClip) -> np.ndarray | str:
    try:
        return read_mouth(clip)
    except DavssError as error:
        return str(error)


def _found(mouths: Iterable[np.ndarray | str]) -> Iterator[np.ndarray]:
    """The mouths that could be read; the others become rejects, with their reason, later."""
    reason, count = "there are none", 0
    for mouth_or_reason in mouths:
        if isinstance(mouth_or_reason, str):
            reason = mouth_or_reason
            continue
        count += 1
        yield mouth_or_reason
    if not count:
        raise DavssError(f"eigenlips: no training clip shows a mouth; the last: {reason}")


def _plan(
    clips: list[RawClip], config: ShardsConfig, encoder: Eigenlips | None
) -> list[tuple[str, list[RawClip]]]:
    """Shards as (name, clips): of about shard_megabytes each, equally filled."""
    seconds = np.mean(list(_durations(clips[:32])) or [config.min_seconds])
    rate = 1.2 * config.sample_rate + (2 * FPS * encoder.dim if encoder else 0)  # flac saves 40 %
    per_shard = max(1, round(config.shard_megabytes * 1e6 / (seconds * rate)))
    plan = []
    for split in SPLITS:
        mine = [clip for clip in clips if clip.split == split]
        count = -(-len(mine) // per_shard)
        bounds = [len(mine) * number // max(count, 1) for number in range(count + 1)]
        for number in range(count):
            plan.append((f"{split}-{number:06d}", mine[bounds[number] : bounds[number + 1]]))
    return plan


def _durations(clips: list[RawClip]) -> Iterator[float]:
    for clip in clips:
        try:
            samples, rate = audio.read_audio(clip.audio)
            yield len(samples) / rate
        except DavssError:
            continue


def _shards(
    plan: list[tuple[str, list[RawClip]]],
    folder: str,
    storage: Path,
    notes: Path,
    config: ShardsConfig,
    encoder: Eigenlips | None,
) -> list[ShardResult]:
    """Results of all planned shards, recalled where the shard still has its sha256."""
    results = {name: _recall(notes / f"{name}.json", storage) for name, _ in plan}
    todo = [(name, mine) for name, mine in plan if results[name] is None]
    shared = ray.put(encoder)
    arguments = [(mine, name, folder, storage, config, shared) for name, mine in todo]
    written = _map(write_shard, arguments, f"{folder}: {len(plan)} shards")
    for (name, _), result in zip(todo, written, strict=True):
        with publish(notes / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(result)))
        results[name] = result
    return [result for result in results.values() if result is not None]


def _recall(note: Path, storage: Path) -> ShardResult | None:
    if not note.is_file():
        return None
    result = ShardResult(**json.loads(note.read_text()))
    if result.shard is None:
        return result
    path = storage / result.shard["shard"]
    return result if path.is_file() and sha256(path) == result.shard["sha256"] else None


def _refuse_nothing(corpus: str, results: list[ShardResult]) -> None:
    if any(result.clips for result in results):
        return
    rejects = [row for result in results for row in result.rejects]
    raise DavssError(
        f"corpora.{corpus}: all {len(rejects)} clips were rejected; the first: "
        f"{rejects[0]['reason']}"
    )
