"""Video files in: RGB frames at 25 frames per second, placed by their time stamps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter

from davss.errors import DavssError
from davss.media import FPS
from davss.media.decoding import (
    ENCRYPTED,
    Packets,
    find_stream,
    find_streams,
    open_container,
    require_file,
)

NEAR_FPS = 0.1  # rates that near to 25 are 25: clocks differ
SET_BACK = 0.25  # s: frames whose stamps are in the order of decoding are back by less
SET_BACK_AVI = 0.5  # … and more where no other stamps are known
HOLD = 0.1  # s: how far in time a frame may be from what it is taken for
LONGEST = 24 * 3600 * 25  # frames
WIDEST = 4.0  # a pixel, by its height; what says more is broken
HELD = 1 << 28  # bytes: a minute and more of 224×224


class Frames:
    """The RGB frames of a video at 25 fps, uint8 (H, W, 3) each; may be gone through again.

    At `zero` + v/25 s, on the file's own clock, it is the frame nearest in time, from the first v
    for which there is one, `first`, to the last; `num` ends the v. `zero` is where the picture
    begins unless it is given. `seen` (V,) is False in gaps, where the frame is one of before or
    after; `fps` is the file's own rate; `missing` says in words what the file promises and does not
    hold. Of `tracks` of pictures it is number `track`, from 0 on. Frames that take more than HELD
    are decoded as they are gone through: an hour needs no more memory than a minute. Raises
    DavssError for a file without a moving picture.
    """

    def __init__(self, path: str | Path, zero: float | None = None, num: int | None = None) -> None:
        self.path, self.missing = require_file(path), ""
        self._held: list[np.ndarray] | None = []
        times = self._decode_all()
        zero = float(times[0]) if zero is None else zero
        end = int((times[-1] + 1 / self.fps - zero) * FPS + 1e-3)
        ticks = zero + np.arange(max(0, min(end, LONGEST if num is None else num))) / FPS
        order = _nearest(times, ticks)
        seen = (np.abs(times[order] - ticks) <= HOLD) & (ticks >= times[0] - 0.5 / FPS - 1e-3)
        if not seen.any():
            raise DavssError(f"{path}: its picture and its sound never overlap")
        first, last = np.flatnonzero(seen)[[0, -1]]
        self.first, self.seen = int(first), seen[first : last + 1]
        self._order = order[first : last + 1]

    def _decode_all(self) -> np.ndarray:
        """Times (N,) of all frames in s; the frames are kept unless they take more than HELD."""
        times: list[float] = []
        with open_container(self.path) as container:
            streams = find_streams(container, "video", self.path)
            packets, self.tracks = Packets(container, streams[0]), len(streams)
            self.track = [one.index for one in container.streams.video].index(streams[0].index)
            draw, held = _Drawing(packets.stream), self._held
            for time, frame in _timed(packets):
                times.append(time)
                if held is not None:
                    held.append(draw(frame))
                    if len(held) * held[0].nbytes > HELD:
                        self._held = held = None
            if packets.encrypted:
                raise DavssError(ENCRYPTED.format(self.path, "picture"))
            if not times:
                raise DavssError(
                    f"{self.path}: its picture cannot be decoded (corrupt?); if another "
                    "program plays it, convert it there"
                )
            # frames come as they are shown, but avi has only the times at which they are decoded
            times.sort()
            steps = np.diff(times)
            usual = steps[steps <= 1.5 * np.median(steps)] if len(steps) else np.array([1 / FPS])
            self.fps = 1 / max(float(usual.mean()), 1e-3)
            end = times[-1] + 1 / self.fps
            if packets.falls_short(end):
                self.missing = (
                    f"{self.path}: cut short: its header promises {packets.promised:.3f} s of "
                    f"picture, the file holds {end:.3f} s"
                )
        return np.array(times)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._held is not None:
            yield from (self._held[index] for index in self._order)
            return
        with open_container(self.path) as container:
            packets = Packets(container, find_stream(container, "video", self.path))
            draw, at, picture = _Drawing(packets.stream), -1, None
            numbered = enumerate(packets.frames())
            for index in self._order:  # never falls
                while at < index:
                    at, frame = next(numbered)
                    picture = None
                picture = draw(frame) if picture is None else picture
                yield picture


class _Drawing:
    """Frames of PyAV → RGB uint8 (H, W, 3), upright, of square pixels, all of the size of the
    first.
    """

    def __init__(self, stream: Any) -> None:
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        ratio = float(stream.sample_aspect_ratio or 1)
        self._wide = ratio if 1 / WIDEST <= ratio <= WIDEST else 1.0

    def __call__(self, frame: Any) -> np.ndarray:
        size = max(1, round(frame.width * self._wide)), frame.height
        self._size = width, height = self._size or size
        picture = self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        return np.ascontiguousarray(_as_shown(picture, frame))


def _as_shown(picture: np.ndarray, frame: Any) -> np.ndarray:
    """Turned and mirrored as the display matrix of its frame says."""
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is None:
        return picture
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]
    if abs(b) > abs(a):  # a quarter turn
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _timed(packets: Packets) -> Iterator[tuple[float, Any]]:
    """Frames with their times in s. One without a stamp follows at 1/25 s, and what is set back by
    SET_BACK or more, as in files put together, follows what was there before.
    """
    last, shift = None, 0.0
    back = SET_BACK_AVI if packets.format == "avi" else SET_BACK
    for frame in packets.frames():
        after = 0.0 if last is None else last + 1 / FPS
        time = after if frame.time is None else frame.time + shift
        if last is not None and time < last - back:
            shift, time = shift + after - time, after
        last = time
        yield time, frame


def _nearest(times: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Numbers of the frames whose times (N,), which never fall, are nearest to `ticks` (V,)."""
    after = np.searchsorted(times, ticks).clip(max=len(times) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(ticks - times[before] <= times[after] - ticks, before, after)
