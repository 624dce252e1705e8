"""Video files in: RGB frames at 25 frames per second, through decord."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import decord
import numpy as np

from davss.errors import DavssError
from davss.media.decoding import decoding, require_file

FPS = 25.0


@dataclass(frozen=True)
class VideoInfo:
    """What the container says: number of frames, frames per second, height and width in pixels."""

    num_frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True)
class Video:
    """RGB frames, uint8 (V, H, W, 3), at `fps` frames per second."""

    frames: np.ndarray
    fps: float


def probe(path: str | Path) -> VideoInfo:
    """Size and rate of a video from its first frame; raises DavssError if it cannot be opened."""
    reader, path = _open(path)
    with decoding(path, "video"):
        height, width, _ = reader[0].shape
        return VideoInfo(len(reader), float(reader.get_avg_fps()), int(height), int(width))


def read_video(path: str | Path) -> Video:
    """Read all frames of a 25 fps video as RGB; DavssError for a broken or other-rate file."""
    reader, path = _open(path)
    with decoding(path, "video"):
        fps, num_frames = float(reader.get_avg_fps()), len(reader)
    if abs(fps - FPS) > 0.01:
        raise DavssError(
            f"{path}: video has {fps:g} frames per second, 25 are needed; convert it with"
            " `ffmpeg -i IN -r 25 OUT.mp4`"
        )
    with decoding(path, "video"):
        frames = reader.get_batch(range(num_frames)).asnumpy()
    return Video(frames, FPS)


def _open(path: str | Path) -> tuple[decord.VideoReader, Path]:
    path = require_file(path)
    with decoding(path, "video"):
        reader = decord.VideoReader(str(path), num_threads=1)
    if len(reader) == 0:
        raise DavssError(f"{path}: video has no frames; remove the file or encode it again")
    return reader, path
