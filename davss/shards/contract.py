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
from davss.media import FPS

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
AUDIO, LIPS, META = "audio.flac", "lips.npy", "meta.json"
META_FIELDS: dict[str, tuple[type, ...]] = {"schema_version": (int,), "sample_rate": (int,)}
META_FIELDS |= {"split": (str,), "speaker": (str,), "source": (str,), "rms": (float, int)}
META_FIELDS |= {"num_samples": (int,), "num_frames": (int, type(None))}
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
    rate = meta["sample_rate"]
    start, length = (0, meta["num_samples"]) if crop is None else crop(key, meta)
    audio = _decode_audio(key, sample[AUDIO], meta, start, length)
    lips = None
    if LIPS in sample:
        features = _decode_lips(key, sample[LIPS])
        _check_length(key, meta["num_samples"], rate, features)
        first = start // samples_per_frame(rate)
        lips = features[first : first + frames_of(length, rate)].astype(np.float32)
    if meta["num_frames"] != (len(features) if LIPS in sample else None):
        raise DavssError(f"{key}: {LIPS} disagrees with {META}; rebuild the shard")
    return Clip(key, audio, rate, lips, meta)


def decode_meta(key: str, data: bytes) -> dict[str, Any]:
    """The checked contents of `KEY.meta.json`."""
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError):
        raise DavssError(f"{key}: {META} is not JSON; rebuild the shard") from None
    if not isinstance(meta, dict):
        meta = {}
    for name, kinds in META_FIELDS.items():
        if name not in meta:
            raise DavssError(f"{key}: {META} lacks '{name}'; rebuild the shard")
        if type(meta[name]) not in kinds or (name == "rms" and not 0 <= meta[name] <= 1):
            raise DavssError(f"{key}: {META} has a wrong '{name}'; rebuild the shard")
    if meta["schema_version"] != SCHEMA_VERSION:
        raise DavssError(
            f"{key}: shard contract v{meta['schema_version']}, this davss reads v{SCHEMA_VERSION}; "
            "rebuild the shards"
        )
    return meta


def _decode_audio(
    key: str, data: bytes, meta: dict[str, Any], start: int, length: int
) -> np.ndarray:
    """Samples from `start`, as many as `length` or there are."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            facts = (file.frames, file.samplerate, file.channels)
            if facts != (meta["num_samples"], meta["sample_rate"], 1):
                raise DavssError(f"{key}: {AUDIO} disagrees with {META}; rebuild the shard")
            if start:
                file.seek(start)
            audio = file.read(length, dtype="float32")
            whole = len(audio) >= min(length, file.frames - start)
    except (soundfile.LibsndfileError, RuntimeError):
        whole = False
    if not whole:
        raise DavssError(f"{key}: {AUDIO} cannot be decoded; rebuild the shard")
    return audio


def _decode_lips(key: str, data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        lips = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)
    except (ValueError, TypeError, OverflowError, SyntaxError):
        raise DavssError(f"{key}: {LIPS} is not a plain array; rebuild the shard") from None
    if lips.ndim != 2 or dtype != np.float16 or fortran:
        raise DavssError(f"{key}: {LIPS} is {dtype} {shape}, expected float16 (V, D)")
    return lips


def _check_length(key: str, num_samples: int, rate: int, lips: np.ndarray) -> None:
    if len(lips) * samples_per_frame(rate) != num_samples:
        raise DavssError(
            f"{key}: {len(lips)} lip frames cover {len(lips) * samples_per_frame(rate)} samples, "
            f"the audio has {num_samples}; cut both to the same time"
        )
