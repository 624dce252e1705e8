"""Sound in and out: what libsndfile knows, such as wav and flac, through soundfile, everything else
through PyAV.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch

from davss.errors import DavssError, outages_explained
from davss.media import headers, resampling
from davss.media.decoding import (
    ENCRYPTED,
    Packets,
    find_streams,
    is_headerless,
    open_container,
    require_file,
)
from davss.storage import publish

MPEG = (b"ID3", b"\xff")  # how mp3 and raw aac begin, to which libsndfile is a stranger
FIRST_PAGE = b"OggS\0\2"
OPUS_RATE = re.compile(rb"OpusHead[\s\S]{4}([\s\S]{4})")  # before it was encoded; 0 is not known
LOWEST_RATE = 1000  # Hz: what says less is broken, and would be as long as it is wrong
SILENCE_RMS = 1e-5
QUIET = 1e-3  # a channel below this part of the loudest (−60 dB) is silent
CANCELLED = 0.1  # channels whose mean has less than this part of the power that it should have
JITTER = 0.04  # s by which time stamps may miss the samples counted: they are rounded
LONGEST_GAP = 600.0  # s
GROWTH = 1 << 22  # samples
REFUSED = "{}: refusing to write empty or non-finite audio"
HIDDEN = "{}: its edit list hides all of its sound, which is read without it"
ENDLESS = "{}: cut short: its end is missing"


@dataclass(frozen=True)
class Sound:
    """What is heard of a recording: samples (C, T) float32 at its own rate, in Hz.

    `start` is when the first one is heard, in s on the file's own clock; `missing` says in words
    what the file promises and does not hold, "" if it is whole. Of `tracks`, which are heard
    together, it is the main one, or if that is silent the next: `track` is its number, from 0 on,
    and language.
    """

    path: Path
    samples: np.ndarray
    rate: int
    start: float = 0.0
    missing: str = ""
    tracks: int = 1
    track: str = "0"

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
        mask = np.isin(np.arange(count), heard)[:, None]
        mean = np.add.reduce(self.samples, axis=0, where=mask)  # an hour is not copied for it
        mean /= np.float32(len(heard))
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
        raise DavssError(f"{sound.missing}; give a whole one, or read this with `read_sound`")
    audio, rate = sound.mono(channel)[0], sound.rate
    if sample_rate is not None and sample_rate != rate:
        audio, rate = resample(audio, rate, sample_rate), sample_rate
    return audio, rate


def read_sound(path: str | Path) -> Sound:
    """What is heard of a recording, of one that was cut short what is there. DavssError for a
    missing, empty, unreadable or non-finite one, StorageError when its disk or share fails.
    """
    path = require_file(path)
    with outages_explained(path):
        return _read_sound(path)


def _read_sound(path: Path) -> Sound:
    claimed = headers.claimed_sound(path)
    sound = _read_soundfile(path, claimed)
    if sound is None and is_headerless(path):
        sound = _read_named(path)
    if sound is None:
        options = {"ignore_length": "1"} if claimed is None else {}
        sound, track = _read_container(path, 0, options), 1
        while track < sound.tracks and np.abs(sound.samples).max(initial=0) < SILENCE_RMS:
            sound, track = _read_container(path, track, options), track + 1
        if not sound.samples.size and sound.missing:
            whole = _read_container(path, 0, {**options, "ignore_editlist": "1"})
            if whole.samples.size:
                sound = replace(whole, missing=HIDDEN.format(path))
    if sound.samples.size and sound.rate < LOWEST_RATE:
        raise DavssError(
            f"{path}: its header says {sound.rate} samples a second, too few for speech; correct "
            "it, or export it again"
        )
    if sound.samples.size == 0 and sound.missing:
        raise DavssError(f"{sound.missing}; look for another copy of it")
    if sound.samples.size == 0 and claimed and all(claimed):
        raise DavssError(f"{path}: its header is broken; convert it with a program that plays it")
    if sound.samples.size == 0:
        raise DavssError(f"{path}: holds no audio samples; nothing was recorded in it")
    if not all(np.isfinite(channel).all() for channel in sound.samples):
        raise DavssError(f"{path}: audio has NaN or infinite samples; export it again without them")
    return sound


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Band-limited resampling of float32 (..., T) to (..., ceil(T·to/from)); rates in Hz."""
    if from_rate == to_rate:
        return audio
    signal = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    return resampling.resample(signal, from_rate, to_rate).numpy()


def high_pass(audio: np.ndarray, cutoff: float, rate: int) -> np.ndarray:
    """Float32 (T,) without what lies below `cutoff` Hz (0: as it is), by a Butterworth filter of
    fourth order, forwards and backwards.
    """
    if not cutoff:
        return audio
    from scipy import signal  # takes half a second, which few commands need

    sections = signal.butter(4, cutoff, "highpass", fs=rate, output="sos")
    return signal.sosfiltfilt(sections, audio.astype(np.float64)).astype(np.float32)


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write (T,) or (C, T) as a float32 wav file, all or nothing; DavssError on NaN, inf, empty."""
    write_blocks(path, [np.asarray(audio, dtype=np.float32)], sample_rate)


def write_blocks(path: str | Path, blocks: Iterable[np.ndarray], sample_rate: int) -> None:
    """The same of audio in blocks (n,) or (C, n), of which one at a time is held."""
    path, blocks = Path(path), _writable(blocks, Path(path))
    first = next(blocks, None)
    if first is None:
        raise DavssError(REFUSED.format(path))
    channels = 1 if first.ndim == 1 else len(first)
    with publish(path) as temporary, _Target(temporary, "wb") as file:
        try:
            with soundfile.SoundFile(
                file, "w", sample_rate, channels, "FLOAT", format="WAV"
            ) as sound:
                for block in chain([first], blocks):
                    sound.write(block.T)
        finally:
            if file.error is not None:
                raise file.error


class _Target(io.FileIO):
    """A file for libsndfile, which does not tell a full disk from other failures."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        done = 0
        try:
            while done < len(data):
                done += super().write(data[done:])
        except OSError as error:
            self.error = error
        return done


def _writable(blocks: Iterable[np.ndarray], path: Path) -> Iterator[np.ndarray]:
    for block in blocks:
        if block.size == 0 or not np.isfinite(block).all():
            raise DavssError(REFUSED.format(path))
        yield block


def require_sound(audio: np.ndarray, name: str | Path, least: float = SILENCE_RMS) -> None:
    """Raise DavssError when the RMS of `audio` (full scale 1) says that nothing was recorded."""
    if _rms(audio) < least:
        raise DavssError(f"{name}: audio is silent; there is nothing to hear in it")


def _rms(audio: np.ndarray) -> float:
    total = np.einsum("t,t->", audio, audio, dtype=np.float64)  # squares of an hour take no memory
    return float(np.sqrt(total / max(len(audio), 1)))


def _read_soundfile(path: Path, claimed: tuple[int, int] | None) -> Sound | None:
    """None for a file that PyAV may know better than libsndfile does."""
    with open(path, "rb") as file:
        start, is_wav = file.read(4), headers.wav_start(file) is not None
    if (start.startswith(MPEG) and not is_wav) or headers.carries_bitstream(path):
        return None
    sources = headers.rewritten(path, to_the_end=claimed is None) if is_wav else []
    if claimed is None and not sources:
        return None
    try:
        if start == b"OggS":
            samples, rate, promised = _read_ogg(path.read_bytes())
        elif len(sources) > 1:
            samples, rate, promised = _read_all(sources)
        else:
            with open(path, "rb") as file:
                # by its number: by its name libsndfile takes anything called .gsm for telephony
                samples, rate, promised = _read_one(sources[0] if sources else file.fileno())
    except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError):
        return None
    there, (claim, left) = samples.shape[1], claimed or (0, 0)
    if there < promised:
        return None
    missing = ENDLESS.format(path) if headers.breaks_off(path) else ""
    if claim > left:
        promised = claim if there == left else there * claim // max(left, 1)
        missing = _missing(path, promised, there, rate)
    return Sound(path, samples, rate, missing=missing)


def _read_named(path: Path) -> Sound | None:
    """The same of a file without a header, which libsndfile knows by its name."""
    try:
        samples, rate, _ = _read_one(path)
    except (soundfile.LibsndfileError, RuntimeError):
        return None
    return Sound(path, samples, rate)


def _read_one(source: Path | io.BytesIO | int) -> tuple[np.ndarray, int, int]:
    """Samples (C, T), their rate, and how many there should be; `source` may be an open file's
    number.
    """
    with soundfile.SoundFile(source, closefd=False) as sound:
        samples = sound.read(len(sound), dtype="float32", always_2d=True).T
        return samples, int(sound.samplerate), len(sound)


def _read_all(sources: Iterable[io.BytesIO]) -> tuple[np.ndarray, int, int]:
    """Samples (C, T) of files of several formats, one after the other, at the rate of the
    first; that rate and T. ValueError when there are none.
    """
    line, rate = _Line(), 0
    for source in sources:
        samples, own_rate = soundfile.read(source, dtype="float32", always_2d=True)
        rate = rate or int(own_rate)
        line.add(resample(samples.T, int(own_rate), rate))
    if not rate:
        raise ValueError("no sound")
    return line.samples(), rate, line.length


def _read_ogg(content: bytes) -> tuple[np.ndarray, int, int]:
    """The same of all streams, of which libsndfile reads one; its own errors for other kinds.
    ValueError for Opus of a rate that is not known, of which libsndfile would read 8 kHz.
    """
    if any(rate == bytes(4) for rate in OPUS_RATE.findall(content)):
        raise ValueError("unknown rate")
    starts = [match.start() for match in re.finditer(re.escape(FIRST_PAGE), content)]
    ends = [*starts[1:], len(content)]
    return _read_all(io.BytesIO(content[a:b]) for a, b in zip(starts, ends, strict=True))


def _read_container(path: Path, track: int, options: dict[str, str]) -> Sound:
    with open_container(path, **options) as container:
        streams = find_streams(container, "audio", path)
        packets = Packets(container, streams[track])
        samples, rate, start, longest = _in_place(_blocks(packets), path)
        if packets.encrypted:
            raise DavssError(ENCRYPTED.format(path, "sound"))
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
        number = [one.index for one in container.streams.audio].index(packets.stream.index)
        language = packets.stream.metadata.get("language", "und")
    name = f"{number}" if language == "und" else f"{number} ({language})"
    return Sound(path, samples, rate, start, missing, len(streams), name)


def _missing(path: Path, promised: float, there: int, rate: int) -> str:
    return (
        f"{path}: cut short: its header promises {promised:.0f} samples ({promised / rate:.3f} s), "
        f"the file holds {there} ({there / rate:.3f} s)"
    )


def _blocks(packets: Packets) -> Iterator[tuple[float | None, np.ndarray, int]]:
    """Decoded stretches (C, n) with their time in s and rate in Hz."""
    for frame in packets.frames():
        if frame.format.name == "s64":  # of which PyAV makes no array
            (frame,) = av.AudioResampler("dbl").resample(frame)
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
    line = _Line()
    rate, start, longest, back = 0, None, 0, 0.0
    for time, block, own_rate in blocks:
        if start is None:
            rate, start = own_rate, time or 0.0
        elif time is not None and abs(gap := time - start + back - line.length / rate) > JITTER:
            if gap > LONGEST_GAP:
                raise DavssError(
                    f"{path}: its time stamps leap by {gap:.0f} s; put its parts one behind "
                    "the other with `ffmpeg -i IN OUT.wav`"
                )
            if gap < 0:
                back -= gap  # set back, as in files put together: no sound is thrown away
            else:
                line.add(np.zeros((1, round(gap * rate)), np.float32))
        if own_rate != rate:
            block = resample(block, own_rate, rate)
        line.add(block)
        longest = max(longest, block.shape[1])
    return line.samples(), rate, start or 0.0, longest


class _Line:
    """Stretches of sound, one after the other, in memory that grows where it is: an hour is never
    held twice.
    """

    def __init__(self) -> None:
        self._held, self._channels, self.length = np.zeros(0, np.float32), 1, 0

    def add(self, block: np.ndarray) -> None:
        """Put (C, n) at the end. Where fewer channels are sent for a while, all get their mean."""
        if len(block) > self._channels:
            wide = np.repeat(self.samples().mean(0), len(block))
            self._held, self._channels = wide, len(block)
        if len(block) < self._channels:
            block = block.mean(0, keepdims=True)
        begin, end = (self._channels * n for n in (self.length, self.length + block.shape[1]))
        if end > len(self._held):
            self._held.resize(end + GROWTH, refcheck=False)
        self._held[begin:end].reshape(-1, self._channels)[:] = block.T
        self.length += block.shape[1]

    def samples(self) -> np.ndarray:
        """All of it, (C, T)."""
        return self._held[: self.length * self._channels].reshape(-1, self._channels).T
