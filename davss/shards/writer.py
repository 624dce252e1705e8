"""Raw clips → shards: a clip becomes a sample, a list of clips a shard, and all of them manifests.

Contents depend on the clips and settings alone: same input, same bytes, same sha256.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas
import webdataset

from davss.config import ShardsConfig
from davss.corpora import SPLITS, RawClip
from davss.errors import DavssError
from davss.media.audio import read_audio, require_sound, resample
from davss.media.mouth import MouthFinder
from davss.media.video import read_video
from davss.networks.eigenlips import VisualEncoder
from davss.shards.contract import FPS, META, SCHEMA_VERSION, encode, samples_per_frame
from davss.storage import publish, sha256

# AAC pads its last frame and encoders add a lead-in: sound may outlast the picture by this much.
SURPLUS_SECONDS = 0.25
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


@functools.cache
def _mouth_finder() -> MouthFinder:
    cv2.setNumThreads(1)  # tasks run side by side, one per core
    return MouthFinder()  # loading its networks takes longer than one clip


def read_mouth(clip: RawClip) -> np.ndarray:
    """Mouth crops uint8 (V, 96, 96) of a clip's video."""
    if clip.video is None:
        raise DavssError(f"{clip.source}: has no video")
    return _mouth_finder()(read_video(clip.video).frames, clip.source).crops


def make_sample(
    clip: RawClip, config: ShardsConfig, encoder: VisualEncoder | None
) -> dict[str, Any]:
    """One clip as encoded members, its audio without offset.

    DavssError says why a clip is unusable: short, silent, corrupt, no face, lips and audio differ.
    """
    audio, rate = read_audio(clip.audio)
    audio = audio - audio.mean()  # an offset is no sound, yet would count in every level
    require_sound(audio, clip.source)
    audio = resample(audio, rate, config.sample_rate)
    _check_seconds(clip, len(audio), config)  # before the costly video
    lips = None
    if clip.video is not None and encoder is not None:
        lips = encoder(read_mouth(clip))
        audio, lips = _align(clip, audio, lips, config.sample_rate)
        _check_seconds(clip, len(audio), config)
    peak = float(np.abs(audio).max())
    if peak > 1:  # resampling overshoots; levels carry no meaning here, clipping would
        audio = audio / np.float32(peak)
    meta = {"split": clip.split, "speaker": clip.speaker, "source": clip.source}
    return encode(clip.key, audio, lips, meta | {"sample_rate": config.sample_rate})


def _check_seconds(clip: RawClip, num_samples: int, config: ShardsConfig) -> None:
    seconds = num_samples / config.sample_rate
    if seconds < config.min_seconds:
        raise DavssError(f"{clip.source}: {seconds:.2f} s, shorter than {config.min_seconds:g} s")


def _align(
    clip: RawClip, audio: np.ndarray, lips: np.ndarray, sample_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut audio (T,) and lips (V, D) to the same whole video frames: T = V·rate/25."""
    per_frame = samples_per_frame(sample_rate)
    difference = len(audio) / per_frame - len(lips)
    if not -1 <= difference <= SURPLUS_SECONDS * FPS:
        raise DavssError(
            f"{clip.source}: {len(lips) / FPS:.2f} s of lips but {len(audio) / sample_rate:.2f} "
            "s of audio; cut both to the same length"
        )
    num_frames = min(len(lips), len(audio) // per_frame)
    return audio[: num_frames * per_frame], lips[:num_frames]


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
