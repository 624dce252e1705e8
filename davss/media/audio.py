"""Sound in and out: what libsndfile knows, such as wav and flac, through soundfile, everything else
through PyAV.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from davss.errors import DavssError
from davss.media import headers, resampling
from davss.media.decoding import Packets, find_streams, open_container, require_file
from davss.storage import publish

MPEG = (b"ID3", b"\xff")  # how mp3 and raw aac begin, to which libsndfile is a stranger
FIRST_PAGE = b"OggS\0\2"
SILENCE_RMS = 1e-5
QUIET = 1e-3  # a channel below this part of the loudest (−60 dB) is silent
CANCELLED = 0.1  # channels whose mean has less than this part of the power that it should have
JITTER = 0.04  # s by which time stamps may miss the samples counted: they are rounded
LONGEST_GAP = 600.0  # s
ENDLESS = "{}: cut short: its end is missing"


@dataclass(frozen=True)
class Sound:
    """What is heard of a recording: samples (C, T) float32 at its own rate, in Hz.

    `start` is when the first one is heard, in s on the file's own clock; `missing` says in words
    what the file promises and does not hold, "" if it is whole. Of `tracks`, which are heard
    together, it is the main one, or if that is silent the next.
    """

    path: Path
    samples: np.ndarray
    rate: int
    start: float = 0.0
    missing: str = ""
    tracks: int = 1

    def mono(self, channel: int | None = None) -> tuple[np.ndarray, str]:
        """One channel (T,), from 0 on, or the mean of those that are not silent; and a warning,
        "" if there is none: of channels that are silent, or cancel out, where the loudest is taken.
        """
        count = len(self.samples)
        if channel is not None:
            if not 0 <= channel < count:
                numbers = "0" if count == 1 else f"0 to {count - 1}"
                raise DavssError(f"{self.path}: has no channel {channel}; give {numbers}")
            return self.samples[channel], ""
        if count == 1:
            return self.samples[0], ""
        rms = np.array([_rms(samples) for samples in self.samples])
        heard = np.flatnonzero(rms > max(SILENCE_RMS, QUIET * rms.max()))
        if len(heard) == 0:
            return self.samples.mean(0), ""
        mean = self.samples[heard].mean(0)
        if np.square(_rms(mean)) < CANCELLED * np.square(rms[heard]).mean() / len(heard):
            loudest = int(rms.argmax())
            return self.samples[loudest], (
                f"{self.path}: its channels cancel each other out; channel {loudest}, the loudest, "
                "is taken, --channel takes another"
            )
        if len(heard) == count:
            return mean, ""
        numbers = ", ".join(str(number) for number in heard)
        plural = "s" if len(heard) > 1 else ""
        return mean, (
            f"{self.path}: {count - len(heard)} of {count} channels are silent; taken: "
            f"channel{plural} {numbers}"
        )


def read_audio(
    path: str | Path, sample_rate: int | None = None, channel: int | None = None
) -> tuple[np.ndarray, int]:
    """Read one recording as mono float32 (T,) with its rate in Hz; `sample_rate` resamples it.

    Of several channels it is the mean, or `channel`, from 0 on. What is read, and when it begins,
    is in docs/formats.md. Raises DavssError for a missing, empty, unreadable, truncated or
    non-finite recording.
    """
    sound = read_sound(path)
    if sound.missing:
        raise DavssError(f"{sound.missing}; copy it again")
    audio, rate = sound.mono(channel)[0], sound.rate
    if sample_rate is not None and sample_rate != rate:
        audio, rate = resample(audio, rate, sample_rate), sample_rate
    return audio, rate


def read_sound(path: str | Path) -> Sound:
    """What is heard of a recording, of one that was cut short what is there. DavssError for a
    missing, empty, unreadable or non-finite one.
    """
    path = require_file(path)
    claimed = headers.claimed_sound(path)
    sound = _read_soundfile(path, *claimed) if claimed is not None else None
    if sound is None:
        options = {"ignore_length": "1"} if claimed is None else {}
        sound, track = _read_container(path, 0, options), 1
        while track < sound.tracks and np.abs(sound.samples).max(initial=0) < SILENCE_RMS:
            sound, track = _read_container(path, track, options), track + 1
    if sound.samples.size == 0 and sound.missing:
        raise DavssError(f"{sound.missing}; copy it again")
    if sound.samples.size == 0 and claimed and all(claimed):
        raise DavssError(f"{path}: its header is broken, no sound is found; convert it to wav")
    if sound.samples.size == 0:
        raise DavssError(f"{path}: holds no audio samples; nothing was recorded in it")
    if not np.isfinite(sound.samples).all():
        raise DavssError(f"{path}: audio has NaN or infinite samples; write the file again")
    return sound


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Band-limited resampling of float32 (..., T) to (..., ceil(T·to/from)); rates in Hz."""
    if from_rate == to_rate:
        return audio
    signal = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    return resampling.resample(signal, from_rate, to_rate).numpy()


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write (T,) or (C, T) as a float32 wav file, all or nothing; DavssError on NaN, inf, empty."""
    path, audio = Path(path), np.asarray(audio, dtype=np.float32)
    if audio.size == 0 or not np.isfinite(audio).all():
        raise DavssError(f"{path}: refusing to write empty or non-finite audio")
    buffer = io.BytesIO()  # libsndfile does not tell a full disk from other failures
    soundfile.write(buffer, audio.T, sample_rate, subtype="FLOAT", format="WAV")
    with publish(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def require_sound(audio: np.ndarray, name: str | Path, least: float = SILENCE_RMS) -> None:
    """Raise DavssError when the RMS of `audio` (full scale 1) says that nothing was recorded."""
    if _rms(audio) < least:
        raise DavssError(f"{name}: audio is silent; there is nothing to hear in it")


def _rms(audio: np.ndarray) -> float:
    total = np.einsum("t,t->", audio, audio, dtype=np.float64)  # squares of an hour take no memory
    return float(np.sqrt(total / max(len(audio), 1)))


def _read_soundfile(path: Path, claimed: int, left: int) -> Sound | None:
    """None for a file that PyAV may know better than libsndfile does."""
    with open(path, "rb") as file:
        start = file.read(4)
    if start.startswith(MPEG):
        return None
    try:
        if start == b"OggS":
            samples, rate, promised = _read_ogg(path.read_bytes())
        else:
            source = (headers.joined(path) if start == b"RIFF" else None) or path
            with soundfile.SoundFile(source) as sound:
                samples = sound.read(len(sound), dtype="float32", always_2d=True).T
                rate, promised = int(sound.samplerate), len(sound)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError):
        return None
    there = samples.shape[1]
    if there < promised:
        return None
    missing = ENDLESS.format(path) if headers.breaks_off(path) else ""
    if claimed > left:
        promised = claimed if there == left else there * claimed // max(left, 1)
        missing = _missing(path, promised, there, rate)
    return Sound(path, np.ascontiguousarray(samples), rate, missing=missing)


def _read_ogg(content: bytes) -> tuple[np.ndarray, int, int]:
    """Samples (C, T) of all streams, one after the other, of which libsndfile reads one; their rate
    and T. ValueError when they differ, and libsndfile's own errors for other kinds of streams.
    """
    starts = [match.start() for match in re.finditer(re.escape(FIRST_PAGE), content)]
    parts, rates = [], set()
    for begin, end in zip(starts, [*starts[1:], len(content)], strict=True):
        stream = io.BytesIO(content[begin:end])
        samples, rate = soundfile.read(stream, dtype="float32", always_2d=True)
        parts.append(samples.T)
        rates.add(int(rate))
    (rate,) = rates
    together = np.concatenate(parts, axis=1)
    return together, rate, together.shape[1]


def _read_container(path: Path, track: int, options: dict[str, str]) -> Sound:
    with open_container(path, **options) as container:
        streams = find_streams(container, "audio", path)
        packets = Packets(container, streams[track])
        samples, rate, start, longest = _in_place(_blocks(packets), path)
        rate = rate or packets.stream.codec_context.sample_rate or 1
        there = samples.shape[1]
        end, promised, missing = start + there / rate, packets.promised, ""
        if promised is not None and 0 < round((end - promised) * rate) < longest:
            samples = samples[:, : round((promised - start) * rate)]  # padding of the last packet
        if promised is not None and packets.falls_short(end):
            missing = _missing(path, (promised - start) * rate, there, rate)
        elif headers.breaks_off(path):
            missing = ENDLESS.format(path)
        elif packets.lost:
            missing = f"{path}: damaged: {packets.lost} packets of its sound cannot be decoded"
    return Sound(path, samples, rate, start, missing, len(streams))


def _missing(path: Path, promised: float, there: int, rate: int) -> str:
    return (
        f"{path}: cut short: its header promises {promised:.0f} samples ({promised / rate:.3f} s), "
        f"the file holds {there} ({there / rate:.3f} s)"
    )


def _blocks(packets: Packets) -> Iterator[tuple[float | None, np.ndarray, int]]:
    """Decoded stretches (C, n) with their time in s and rate in Hz."""
    for frame in packets.frames():
        values, count = frame.to_ndarray(), len(frame.layout.channels)
        if not frame.format.is_planar:
            values = values.reshape(-1, count).T
        yield frame.time, _as_float(values), frame.sample_rate


def _as_float(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(2.0 ** (8 * values.dtype.itemsize - 1))
    return values.astype(np.float32)


def _in_place(
    blocks: Iterator[tuple[float | None, np.ndarray, int]], path: Path
) -> tuple[np.ndarray, int, float, int]:
    """All blocks by their time stamps, gaps silent: samples (C, T), rate, when the first is heard,
    and the length of the longest block.
    """
    placed: list[np.ndarray] = []
    rate, start, total, longest, back = 0, None, 0, 0, 0.0
    for time, block, own_rate in blocks:
        if start is None:
            rate, start = own_rate, time or 0.0
        elif time is not None and abs(gap := time - start + back - total / rate) > JITTER:
            if gap > LONGEST_GAP:
                raise DavssError(
                    f"{path}: its time stamps leap by {gap:.0f} s; make them even with "
                    "`ffmpeg -i IN -af aresample=async=1 OUT.wav`"
                )
            if gap < 0:
                back -= gap  # set back, as in files put together: no sound is thrown away
            else:
                placed.append(np.zeros((1, round(gap * rate)), np.float32))
                total += placed[-1].shape[1]
        if own_rate != rate:
            block = resample(block, own_rate, rate)
        placed.append(block)
        total, longest = total + block.shape[1], max(longest, block.shape[1])
    count = max((len(block) for block in placed), default=1)
    together = np.zeros((count, total), np.float32)
    at, placed = 0, placed[::-1]
    while placed:  # where fewer channels are sent for a while, all get their mean
        block = placed.pop()
        together[:, at : at + block.shape[1]] = block if len(block) == count else block.mean(0)
        at += block.shape[1]
    return together, rate, start or 0.0, longest
