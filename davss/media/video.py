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
HELD = 1 << 28  # bytes: a minute and more of 224×224


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
    """The RGB frames of a video at 25 fps, uint8 (H, W, 3) each, decoded as they are gone through;
    may be gone through again. An hour needs no more memory than a second.

    `resample` takes a video of another rate (`fps` in its file): at every 1/25 s the frame nearest
    in time. Raises DavssError for a broken file, and for another rate without it.
    """

    def __init__(self, path: str | Path, *, resample: bool = False) -> None:
        reader, self.path = _open(path)
        with decoding(self.path, "video"):
            self.fps = float(reader.get_avg_fps())
            self._order = np.arange(len(reader))
            self.shape: tuple[int, int, int] = reader[0].shape
            if abs(self.fps - FPS) > 0.01 and resample:
                self._order = _nearest(reader.get_frame_timestamp(range(len(reader))))
        if abs(self.fps - FPS) > 0.01 and not resample:
            raise DavssError(
                f"{path}: video has {self.fps:g} frames per second, 25 are needed; convert it with"
                " `ffmpeg -i IN -r 25 OUT.mp4`"
            )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[np.ndarray]:
        reader, _ = _open(self.path)
        for first in range(0, len(self), CHUNK):
            with decoding(self.path, "video"):
                chunk = reader.get_batch(self._order[first : first + CHUNK].tolist()).asnumpy()
            yield from chunk

    def in_memory(self, max_bytes: int = HELD) -> np.ndarray | Frames:
        """All frames uint8 (V, H, W, 3) where they take no more than `max_bytes`, else self: what
        is gone through twice need not be decoded twice.
        """
        if len(self) * int(np.prod(self.shape)) > max_bytes:
            return self
        return np.stack(list(self))


def probe(path: str | Path) -> VideoInfo:
    """Size and rate of a video from its first frame; raises DavssError if it cannot be opened."""
    reader, path = _open(path)
    with decoding(path, "video"):
        height, width, _ = reader[0].shape
        return VideoInfo(len(reader), float(reader.get_avg_fps()), int(height), int(width))


def read_video(path: str | Path) -> Video:
    """Read all frames of a 25 fps video as RGB; DavssError for a broken or other-rate file."""
    return Video(np.stack(list(Frames(path))), FPS)


def _nearest(times: np.ndarray) -> np.ndarray:
    """Numbers of the frames shown at 0, 1/25, 2/25 … s, for begin and end (N, 2) of each in s."""
    shown = times[:, 0] - times[0, 0]
    ticks = np.arange(max(1, int((times[-1, 1] - times[0, 0]) * FPS + 1e-3))) / FPS
    after = np.searchsorted(shown, ticks).clip(1, max(len(shown) - 1, 1)).clip(max=len(shown) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(ticks - shown[before] <= shown[after] - ticks, before, after)


def _open(path: str | Path) -> tuple[decord.VideoReader, Path]:
    path = require_file(path)
    with decoding(path, "video"):
        reader = decord.VideoReader(str(path), num_threads=1)
    if len(reader) == 0:
        raise DavssError(f"{path}: video has no frames; remove the file or encode it again")
    return reader, path
