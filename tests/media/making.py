"""Recordings of every kind, made with PyAV: gray frames that tell their number, noise as sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from davss.media.video import Frames

RATE = 16_000
SIZE = 64


def noise(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """(C, T) of RMS 0.1."""
    samples = np.random.default_rng(0).standard_normal((channels, round(seconds * rate)))
    return (0.1 * samples).astype(np.float32)


def grays(num: int) -> np.ndarray:
    """Frames (V, 64, 64, 3) whose gray level is 16 + 4 times their number."""
    levels = (16 + 4 * np.arange(num)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num, SIZE, SIZE, 3)).copy()


def pictures(path: Path) -> np.ndarray:
    """All frames (V, H, W, 3) of a video at 25 fps."""
    return np.stack(list(Frames(path)))


def numbers(frames: Sequence[np.ndarray]) -> list[int]:
    """The numbers that frames of `grays` tell."""
    return [round((float(frame.mean()) - 16) / 4) for frame in frames]


def write(
    path: Path,
    frames: np.ndarray | None = None,
    sound: np.ndarray | None = None,
    *,
    rate: int = RATE,
    times: Sequence[float] | None = None,
    sound_start: float = 0.0,
    codecs: tuple[str, str] = ("libx264", "aac"),
    container: str | None = None,
    cut: float = 0.0,
    title: str = "",
    picture_tracks: int = 1,
    **options: str,
) -> Path:
    """A recording of frames shown at `times`, by default every 1/25 s, and sound (C, T).

    There are `picture_tracks` of the frames. `cut` copies its packets without what lies before so
    many s, as `ffmpeg -ss CUT -c copy` does.
    """
    with av.open(str(path), "w", format=container, options=options) as target:
        target.metadata["title"] = title
        packets = []
        for _ in range(picture_tracks if frames is not None else 0):
            packets += _encode_frames(target, frames, times, codecs[0])
        if sound is not None:
            packets += _encode_sound(target, sound, rate, sound_start, codecs[1])
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            if cut:
                shift = round(cut / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            target.mux(packet)
    return path


def _encode_frames(target, frames, times, codec) -> list:
    clock = Fraction(1, 90_000)
    stream = target.add_stream(codec, rate=25)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
    if times is not None:
        stream.codec_context.time_base = clock
    stream.codec_context.thread_count = 1
    packets = []
    for number, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        time = number / 25 if times is None else times[number]
        frame.pts, frame.time_base = round(time / clock), clock
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _encode_sound(target, sound, rate, start, codec) -> list:
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
    stream = target.add_stream(codec, rate=rate, layout=layout)
    if not codec.startswith(("pcm", "flac")):
        stream.bit_rate = 64_000 * len(sound)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), "fltp", layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
    queue, packets = av.AudioFifo(), []
    for part in av.AudioResampler(stream.format, layout, rate).resample(frame):
        queue.write(part)
    stream.codec_context.open()
    for part in queue.read_many(stream.codec_context.frame_size or 1024, partial=True):
        packets += stream.encode(part)
    packets += stream.encode(None)
    for packet in packets:
        shift = round(start / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
    return packets
