"""A speaker's track beside the picture: one video per speaker, whose picture is a copy."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from davss.errors import DavssError
from davss.media.decoding import find_stream, open_container

MP4 = {"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg"}  # others go into mkv
BIT_RATE = 128_000
FASTEST = 96_000  # Hz, of AAC
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, FASTEST)


def video_suffix(path: Path) -> str:
    """Of the videos made from the one at `path`: ".mp4", or ".mkv" if that cannot hold its picture.

    DavssError when there is no picture.
    """
    try:
        with open_container(path) as container:
            stream = find_stream(container, "video", path)
            return ".mp4" if stream.codec_context.name in MP4 else ".mkv"
    except DavssError as error:
        raise DavssError(f"{error}; leave --mux out") from None


def loudest(sounds: Iterable[Path]) -> float:
    """The highest sample of all sound files, at least 1: what they are divided by to be heard
    beside a picture as loud to each other as they are, without being clipped.
    """
    peak = 1.0
    for sound in sounds:
        with soundfile.SoundFile(sound) as wav:
            peak = max([peak, *(float(np.abs(block).max()) for block in _blocks(wav))])
    return peak


def mux(video: Path, sound: Path, start: float, target: Path, peak: float = 1.0) -> None:
    """Write `target`: the picture of `video`, packet by packet as it is, with a sound file that
    begins `start` s on the video's clock, divided by `peak`.
    """
    with (
        open_container(video) as source,
        soundfile.SoundFile(sound) as wav,
        av.open(f"file:{target}", "w") as container,  # a colon in it would name a protocol
    ):
        stream = find_stream(source, "video", video)
        copy = container.add_stream_from_template(stream)
        rate = next((one for one in RATES if one >= wav.samplerate), FASTEST)
        track = container.add_stream("aac", rate=rate, layout="mono")
        track.bit_rate = BIT_RATE
        first = min(float((stream.start_time or 0) * stream.time_base), start)
        packets = heapq.merge(
            _picture(source, stream, copy, first),
            _sound(wav, track, rate, start - first, peak),
            key=lambda timed: timed[0],
        )
        for _, packet in packets:
            container.mux(packet)


def _picture(source: Any, stream: Any, copy: Any, first: float) -> Iterator[tuple[float, Any]]:
    """Packets with the time in s at which they are decoded, `first` s being 0."""
    shift, last = round(first / stream.time_base), -1e9
    for packet in _dated(packet for packet in source.demux(stream) if packet.size):
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        packet.stream = copy
        last = max(last, float(packet.dts * stream.time_base))
        yield last, packet


def _dated(packets: Iterator[Any]) -> Iterator[Any]:
    """Packets which all say when they are decoded: Matroska leaves that out of the first."""
    waiting = []
    for packet in packets:
        waiting.append(packet)
        if packet.dts is None:
            continue
        for number, one in enumerate(waiting):
            if one.dts is None:
                one.dts = packet.dts - (len(waiting) - 1 - number) * max(one.duration or 0, 1)
        yield from waiting
        waiting = []
    for packet in waiting:  # none of them does
        packet.dts = packet.pts
        yield packet


def _sound(
    wav: soundfile.SoundFile, track: Any, rate: int, start: float, peak: float
) -> Iterator[tuple[float, Any]]:
    """Packets of a sound file that begins at `start` s, divided by `peak`."""
    shift, resampler, done = round(start * rate), av.AudioResampler("fltp", "mono", rate), 0
    for block in chain(_blocks(wav), [None]):
        frame = None
        if block is not None:
            frame = av.AudioFrame.from_ndarray(block[None] / np.float32(peak), "fltp", "mono")
            frame.sample_rate, frame.time_base = wav.samplerate, Fraction(1, wav.samplerate)
            frame.pts, done = done, done + len(block)
        for part in resampler.resample(frame):
            part.pts = (part.pts or 0) + shift
            part.time_base = Fraction(1, rate)
            for packet in track.encode(part):
                yield float((packet.dts or 0) * packet.time_base), packet
    for packet in track.encode(None):
        yield float((packet.dts or 0) * packet.time_base), packet


def _blocks(wav: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while len(block := wav.read(1 << 16, dtype="float32")):
        yield block
