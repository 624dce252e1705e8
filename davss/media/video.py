"""Video files in: RGB frames at 25 frames per second, through decord."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import decord
import numpy as np

from davss.errors import DavssError
from davss.media.decoding import decoding, require_file

FPS = 25.0
CHUNK = 64  # frames that are decoded at a time


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


class Frames:
    """The RGB frames of a 25 fps video, uint8 (H, W, 3) each, decoded as they are gone through; may
    be gone through again. An hour needs no more memory than a second.

    Raises DavssError for a broken or other-rate file.
    """

    def __init__(self, path: str | Path) -> None:
        reader, self.path = _open(path)
        with decoding(self.path, "video"):
            fps, self._length = float(reader.get_avg_fps()), len(reader)
        if abs(fps - FPS) > 0.01:
            raise DavssError(
                f"{path}: video has {fps:g} frames per second, 25 are needed; convert it with"
                " `ffmpeg -i IN -r 25 OUT.mp4`"
            )

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[np.ndarray]:
        reader, _ = _open(self.path)
        for first in range(0, self._length, CHUNK):
            with decoding(self.path, "video"):
                chunk = reader.get_batch(range(first, min(first + CHUNK, self._length))).asnumpy()
            yield from chunk


def probe(path: str | Path) -> VideoInfo:
    """Size and rate of a video from its first frame; raises DavssError if it cannot be opened."""
    reader, path = _open(path)
    with decoding(path, "video"):
        height, width, _ = reader[0].shape
        return VideoInfo(len(reader), float(reader.get_avg_fps()), int(height), int(width))


def read_video(path: str | Path) -> Video:
    """Read all frames of a 25 fps video as RGB; DavssError for a broken or other-rate file."""
    return Video(np.stack(list(Frames(path))), FPS)


def _open(path: str | Path) -> tuple[decord.VideoReader, Path]:
    path = require_file(path)
    with decoding(path, "video"):
        reader = decord.VideoReader(str(path), num_threads=1)
    if len(reader) == 0:
        raise DavssError(f"{path}: video has no frames; remove the file or encode it again")
    return reader, path
