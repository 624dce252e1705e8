"""Shard contract v1: what a sample consists of, how each member is encoded and checked.

A sample has key `[a-z0-9_-]+` and the members `KEY.audio.flac` (mono, 16 bit), `KEY.lips.npy`
(float16, V×D; speech with video only) and `KEY.meta.json`, adjacent and sorted. Video frame v
covers samples [v·rate/25, (v+1)·rate/25): audio with lips has exactly V·rate/25 samples. No
pickles: members are decoded here and nowhere else.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import soundfile

from davss.errors import DavssError

SCHEMA_VERSION = 1
FPS = 25
AUDIO, LIPS, META = "audio.flac", "lips.npy", "meta.json"
META_FIELDS = {"schema_version", "split", "speaker", "source", "sample_rate", "num_samples"}
META_FIELDS |= {"num_frames", "rms"}
Crop = Callable[[str, dict[str, Any]], tuple[int, int]]
_KEY = re.compile(r"[a-z0-9_-]+")
_KEY_LENGTH = 75  # tar headers hold names of 100 bytes


@dataclass(frozen=True)
class Clip:
    """One decoded sample: audio (T,) float32 in [-1, 1], lips (V, D) float32 or None."""

    key: str
    audio: np.ndarray
    sample_rate: int
    lips: np.ndarray | None
    meta: dict[str, Any]


def samples_per_frame(sample_rate: int) -> int:
    """Audio samples one video frame covers; DavssError unless the rate is a multiple of 25 Hz."""
    if sample_rate % FPS:
        raise DavssError(
            f"sample_rate {sample_rate}: not a multiple of {FPS} Hz, so video frames would not "
            "begin on a sample; use 8000 or 16000"
        )
    return sample_rate // FPS


def frames_of(num_samples: int, sample_rate: int) -> int:
    """Video frames that cover `num_samples`: V = ceil(T·25/rate)."""
    return -(-num_samples // samples_per_frame(sample_rate))


def make_key(source: str) -> str:
    """Key of a corpus path (relative, with extension), with a hash where letters had to change."""
    stem = str(PurePosixPath(source).with_suffix(""))
    slug = re.sub(r"[^a-z0-9_-]", "_", stem.lower().replace("/", "-"))
    if slug == stem.replace("/", "-") and len(slug) <= _KEY_LENGTH:
        return slug
    # YouTube ids differ by case alone, and dots or blanks become one sign: keep such keys apart.
    return f"{slug[:_KEY_LENGTH]}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"


def is_key(text: str) -> bool:
    """Whether `text` may be a key."""
    return _KEY.fullmatch(text) is not None


def check_key(key: str) -> str:
    """Return `key`, or raise DavssError: readers cut at dots and take slashes for folders."""
    if not is_key(key):
        raise DavssError(f"{key!r}: not a shard key; keys consist of a-z, 0-9, '_' and '-'")
    return key


def encode(key: str, audio: np.ndarray, lips: np.ndarray | None, meta: dict[str, Any]) -> dict:
    """Members of one sample for webdataset.TarWriter; audio (T,) in [-1, 1], lips (V, D)."""
    check_key(key)
    rate = meta["sample_rate"]
    buffer = io.BytesIO()
    # Rounded here: libsndfile's own conversion may differ between versions, sha256 must not.
    pcm = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(buffer, pcm, rate, format="FLAC", subtype="PCM_16")
    sample: dict[str, Any] = {"__key__": key, AUDIO: buffer.getvalue()}
    num_frames = None
    if lips is not None:
        _check_length(key, len(pcm), rate, lips)
        array = io.BytesIO()
        np.save(array, lips.astype("<f2"), allow_pickle=False)
        sample[LIPS] = array.getvalue()
        num_frames = len(lips)
    level = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
    facts = {"schema_version": SCHEMA_VERSION, "num_samples": len(pcm), "num_frames": num_frames}
    meta = meta | facts | {"rms": round(level, 7)}
    sample[META] = json.dumps(meta, sort_keys=True).encode()
    return sample


def decode(sample: dict[str, Any], crop: Crop | None = None) -> Clip:
    """A sample of webdataset (key and raw members) → Clip, or a crop of it: `crop(key, meta)` gives
    its first audio sample and length, and nothing else is decoded. DavssError names key and fault.
    """
    key = check_key(sample["__key__"])
    missing = {AUDIO, META} - sample.keys()
    if missing:
        raise DavssError(f"{key}: member {min(missing)} is missing; rebuild the shard")
    meta = decode_meta(key, sample[META])
    start, length = (0, meta["num_samples"]) if crop is None else crop(key, meta)
    audio, rate, whole = _decode_audio(key, sample[AUDIO], start, length)
    if (whole, rate) != (meta["num_samples"], meta["sample_rate"]):
        raise DavssError(f"{key}: {AUDIO} disagrees with {META}; rebuild the shard")
    lips = None
    if LIPS in sample:
        features = _decode_lips(key, sample[LIPS])
        _check_length(key, whole, rate, features)
        first = start // samples_per_frame(rate)
        lips = features[first : first + frames_of(length, rate)].astype(np.float32)
    return Clip(key, audio, rate, lips, meta)


def decode_meta(key: str, data: bytes) -> dict[str, Any]:
    """The checked contents of `KEY.meta.json`."""
    try:
        meta = json.loads(data)
    except ValueError:
        raise DavssError(f"{key}: {META} is not JSON; rebuild the shard") from None
    absent = META_FIELDS - set(meta if isinstance(meta, dict) else ())
    if absent:
        raise DavssError(f"{key}: {META} lacks '{min(absent)}'; rebuild the shard")
    if meta["schema_version"] != SCHEMA_VERSION:
        raise DavssError(
            f"{key}: shard contract v{meta['schema_version']}, this davss reads v{SCHEMA_VERSION}; "
            "rebuild the shards"
        )
    return meta


def _decode_audio(key: str, data: bytes, start: int, length: int) -> tuple[np.ndarray, int, int]:
    """Samples from `start`, as many as `length` or there are; rate; length of the whole."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            channels, rate, whole = file.channels, file.samplerate, file.frames
            if start:
                file.seek(start)
            audio = file.read(length, dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError):
        raise DavssError(f"{key}: {AUDIO} cannot be decoded; rebuild the shard") from None
    if channels != 1:
        raise DavssError(f"{key}: {AUDIO} has {channels} channels, expected one")
    if len(audio) < min(length, whole - start):
        raise DavssError(f"{key}: {AUDIO} cannot be decoded; rebuild the shard")
    return audio, rate, whole


def _decode_lips(key: str, data: bytes) -> np.ndarray:
    try:
        lips = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise DavssError(f"{key}: {LIPS} is not a plain array; rebuild the shard") from None
    if lips.ndim != 2 or lips.dtype != np.float16:
        raise DavssError(f"{key}: {LIPS} is {lips.dtype} {lips.shape}, expected float16 (V, D)")
    return lips


def _check_length(key: str, num_samples: int, rate: int, lips: np.ndarray) -> None:
    if len(lips) * samples_per_frame(rate) != num_samples:
        raise DavssError(
            f"{key}: {len(lips)} lip frames cover {len(lips) * samples_per_frame(rate)} samples, "
            f"the audio has {num_samples}; cut both to the same time"
        )
