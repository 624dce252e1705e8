"""The people in a video: every face is followed from cut to cut, the same face joined again over
cuts and absences, and its mouth cropped wherever it is seen.

V frames of the video, n frames of a sight, m those of them that show the face, P points of a look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import cv2
import numpy as np

from davss.media import CROP, FPS
from davss.media.faces import FaceMesh, Region
from davss.media.mouth import MEAN_FACE, STABLE, crop_mouth, fill_gaps, similarity, smooth, turned
from davss.media.tracks import Follower, Track, opening
from davss.media.video import Frames

BRIDGED = 12  # frames without the face between two with it: its lips are interpolated there
WHOLE = 0.8  # share of a video in which a face is seen that is not left out anywhere
SHORTEST = 25  # frames
CUT = 12.0  # gray levels by which the thumbnails of neighbours differ, on average, at a cut,
SUDDEN = 4.0  # and how many times what they have differed before
THUMBNAIL = (32, 18)
LOOK = 24  # pixels of a side of the picture by which a face is known again
ALIKE = 0.93  # correlation of two looks of one face, less where it is again in the same place
SAME_PLACE, NEAR = 0.03, 0.3  # how near, in sides of the face's region
MOUTH = (slice(30, 66), slice(24, 72))  # of a crop
STRETCH, AVERAGED = 75, 5  # frames; noise of the picture is not motion
MOVES = 0.19  # a mouth that changes less is still: of six clips and five people speaking 0.22 to
# 0.54, of photographs of them, held still or shaken, 0.02 to 0.16


@dataclass
class Sight:
    """A face from one cut or absence to the next.

    From frame `first` on: landmarks (n, 468, 2) in pixels, `shown` (n,) where it is to be seen,
    mouth crops uint8 (m, 96, 96) of those frames, and the `look` (P,) by which it is known again.
    """

    first: int
    landmarks: np.ndarray
    shown: np.ndarray
    crops: np.ndarray = field(default_factory=lambda: np.empty((0, CROP, CROP), np.uint8))
    look: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def frames(self) -> np.ndarray:
        """Numbers (m,) of the frames that show it."""
        return self.first + np.flatnonzero(self.shown)

    @property
    def points(self) -> np.ndarray:
        """The landmarks (m, 468, 2) in those frames."""
        return self.landmarks[self.shown]

    def box(self, frame: int) -> tuple[int, int, int, int]:
        """Left, top, width and height of the face in one of its frames, in pixels."""
        points = self.landmarks[frame - self.first]
        left, top = np.floor(points.min(0)).astype(int)
        right, bottom = np.ceil(points.max(0)).astype(int)
        return int(left), int(top), int(right - left), int(bottom - top)


@dataclass
class Person:
    """One person, whose `sights` never overlap in time."""

    sights: list[Sight] = field(default_factory=list)

    @property
    def frames(self) -> np.ndarray:
        """Numbers of all frames that show the person, in order."""
        return np.concatenate([sight.frames for sight in self.sights])

    @property
    def gap(self) -> np.ndarray:
        """Opening of the lips in those frames, in distances of the outer eye corners."""
        return np.concatenate([opening(sight.points) for sight in self.sights])

    @property
    def motion(self) -> float:
        """How much the picture of the mouth changes, 95 % quantile of stretches of three seconds:
        standard deviation over time, in those of the crop's own gray levels.
        """
        return float(np.quantile([m for sight in self.sights for m in _motion(sight.crops)], 0.95))

    @property
    def turned(self) -> float:
        """Share of the frames in which the face is seen from the side."""
        parts = [turned(sight.points) * len(sight.frames) for sight in self.sights]
        return sum(parts) / len(self.frames)


@dataclass(frozen=True)
class Place:
    """Where a face is said to be: first and last + 1 of the `frames` that show it, stretch by
    stretch, and `boxes` (time in s, left, top, width, height), between which it moves evenly.
    """

    frames: list[tuple[int, int]]
    boxes: np.ndarray

    def covers(self, frame: int) -> bool:
        """Whether the face is to be seen there."""
        return any(start <= frame < stop for start, stop in self.frames)

    def region(self, frame: int) -> Region:
        """Where to look for it."""
        times, values = self.boxes[:, 0], self.boxes[:, 1:].T
        left, top, width, height = (np.interp(frame / FPS, times, one) for one in values)
        centre = np.array([left + width / 2, top + height / 2])
        return Region.of(centre, 1.5 * float(max(width, height)), np.array([1.0, 0.0]))


def find_people(frames: Frames) -> list[Person]:
    """All people whose faces are seen for a second or, in a shorter video, half of it; those who
    come first before others, and from the left to the right.
    """
    sights = _follow(frames)
    _crop(frames, sights)
    least = min(SHORTEST, len(frames) // 2)
    people = [one for one in join(sights) if len(one.frames) >= least]
    return sorted(people, key=_order)


def _order(person: Person) -> tuple[int, float]:
    first = person.sights[0]
    return first.first // FPS, float(first.points[0, :, 0].mean())


def _follow(frames: Frames) -> list[Sight]:
    follow, sights, start = Follower(closely=True), [], 0
    for _, shot in groupby(frames, key=_Shots()):
        counted = _Counted(shot)
        tracks = follow.follow(counted, len(frames) - start)
        seen = frames.seen[start : start + counted.num]
        for track in tracks:
            track.found = track.found[: counted.num] & seen
            if track.found.sum() >= WHOLE * len(frames):
                landmarks = fill_gaps(track.landmarks, track.found)
                sights.append(Sight(start, landmarks, np.ones(len(frames), bool)))
            elif sight := _sight(track, 0, counted.num):
                sight.first += start
                sights.append(sight)
        start += counted.num
    return sights


class _Counted:
    """Frames, and how many have been taken."""

    def __init__(self, frames: Iterator[np.ndarray]) -> None:
        self._frames, self.num = frames, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self._frames:
            self.num += 1
            yield frame


class _Shots:
    """The number of the shot that a frame belongs to; asked frame by frame."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._usual, self._number = 0.0, 0

    def __call__(self, frame: np.ndarray) -> int:
        small = cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        if self._last is not None:
            change = float(np.abs(small - self._last).mean())
            if change > max(CUT, SUDDEN * self._usual):
                self._number, change = self._number + 1, self._usual
            self._usual += 0.2 * (change - self._usual)
        self._last = small
        return self._number


def bridged(found: np.ndarray) -> np.ndarray:
    """`found` (n,) with gaps of up to BRIDGED frames closed."""
    known = np.flatnonzero(found)
    shown = found.copy()
    for before, after in zip(known, known[1:], strict=False):
        if after - before <= BRIDGED + 1:
            shown[before:after] = True
    return shown


def _crop(frames: Frames, sights: Sequence[Sight]) -> None:
    """Give sights their crops and looks; the video is gone through once for all of them."""
    smoothed = [smooth(sight.landmarks) for sight in sights]
    for sight in sights:  # at once: many small ones would come to lie between the frames
        sight.crops = np.empty((int(sight.shown.sum()), CROP, CROP), np.uint8)
    filled = [0] * len(sights)
    looks = [np.zeros((LOOK, LOOK, 3), np.float32) for _ in sights]
    for number, frame in enumerate(frames):
        gray: np.ndarray | None = None
        for index, sight in enumerate(sights):
            at = number - sight.first
            if 0 <= at < len(sight.shown) and sight.shown[at]:
                gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if gray is None else gray
                sight.crops[filled[index]] = crop_mouth(gray, smoothed[index][at])
                filled[index] += 1
                looks[index] += _look(frame, sight.landmarks[at])
    for sight, look in zip(sights, looks, strict=True):
        sight.look = _normal(look)


def _motion(crops: np.ndarray) -> list[float]:
    """Of each stretch of crops uint8 (m, 96, 96), how much the mouth's picture changes."""
    found = []
    for start in range(0, max(len(crops) - STRETCH // 2, 1), STRETCH):
        part = crops[start : start + STRETCH]
        means = [
            cv2.GaussianBlur(part[at : at + AVERAGED].mean(0, dtype=np.float32), (0, 0), 2)
            for at in range(0, max(len(part) - AVERAGED + 1, 1), AVERAGED)
        ]
        level = np.stack(means) - np.mean(means, axis=(1, 2), keepdims=True)
        contrast = max(float(level.mean(0).std()), 1.0)
        found.append(float(level.std(0)[MOUTH].mean()) / contrast)
    return found


def _look(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face upright in its middle, float32 (LOOK, LOOK, 3)."""
    matrix = similarity(points[list(STABLE)], MEAN_FACE - 40) * LOOK / 176
    return cv2.warpAffine(frame, matrix, (LOOK, LOOK), flags=cv2.INTER_AREA).astype(np.float32)


def _normal(look: np.ndarray) -> np.ndarray:
    flat = look.ravel() - look.mean()
    return flat / max(float(np.linalg.norm(flat)), 1e-9)


def join(sights: Sequence[Sight]) -> list[Person]:
    """Sights put together that show the same face: alike, or less so in the same place, and never
    both at once. The likest are joined first.
    """
    if not sights:
        return []
    groups = [[sight] for sight in sights]
    looks, places = np.stack([one.look for one in sights]), [_place(one) for one in sights]
    near = [[a.distance(b) < NEAR for b in places] for a in places]
    likeness = looks @ looks.T + SAME_PLACE * np.array(near)
    for i, first in enumerate(sights):
        for j in range(i + 1):
            if i == j or _meet(first, sights[j]):
                likeness[i, j] = likeness[j, i] = -np.inf
    while likeness.max() >= ALIKE:
        i, j = np.unravel_index(likeness.argmax(), likeness.shape)
        groups[i] += groups[j]
        groups[j] = []
        both = likeness[[i, j]]
        joined = np.where(np.isneginf(both).any(0), -np.inf, both.max(0))
        likeness[i] = likeness[:, i] = joined
        likeness[j] = likeness[:, j] = -np.inf
    ordered = [sorted(group, key=lambda one: one.first) for group in groups if group]
    return [Person(group) for group in ordered]


def _meet(a: Sight, b: Sight) -> bool:
    """Whether both are seen at once."""
    if a.first + len(a.shown) <= b.first or b.first + len(b.shown) <= a.first:
        return False
    return len(np.intersect1d(a.frames, b.frames, assume_unique=True)) > 0


def _place(sight: Sight) -> Region:
    points = sight.points
    return Region.of_landmarks(np.median(points[:: len(points) // 50 + 1], axis=0))


def boxes(person: Person, every: int = FPS) -> list[list[float]]:
    """Where the face is, about once a second and at both ends of every sight: time in s of the
    video, left, top, width and height in pixels.
    """
    rows = []
    for sight in person.sights:
        frames = sight.frames
        for frame in sorted({*frames[::every], frames[-1]}):
            rows.append([round(int(frame) / FPS, 3), *sight.box(int(frame))])
    return rows


def spans(person: Person) -> list[list[float]]:
    """When the face is seen: beginnings and ends in s of the video."""
    frames = person.frames
    breaks = np.flatnonzero(np.diff(frames) > 1)
    starts, ends = frames[[0, *(breaks + 1)]], frames[[*breaks, -1]] + 1
    return [[int(a) / FPS, int(b) / FPS] for a, b in zip(starts, ends, strict=True)]


def people_at(frames: Frames, places: Sequence[Place]) -> list[Person | None]:
    """The people whose faces lie where they are said to; None for one who is seen nowhere."""
    tracks = [Track.new(len(frames), place.region(0)) for place in places]
    mesh = FaceMesh()
    for number, frame in enumerate(frames):
        for place, track in zip(places, tracks, strict=True):
            if not (place.covers(number) and frames.seen[number]):
                continue
            region = place.region(number)
            if number and track.found[number - 1] and track.last.distance(region) < 0.5:
                region = track.last
            for _ in range(2):  # the second time as the landmarks say
                points, score = mesh(frame, region)
                region = Region.of_landmarks(points)
            if score >= 0.5:
                track.add(number, points, score)
    shots: list[list[Sight]] = []
    for place, track in zip(places, tracks, strict=True):
        parts = [range(*span) for span in place.frames]
        found = [_sight(track, part.start, min(part.stop, len(frames))) for part in parts]
        shots.append([sight for sight in found if sight is not None])
    _crop(frames, [sight for sights in shots for sight in sights])
    return [Person(sights) if sights else None for sights in shots]


def _sight(track: Track, start: int, stop: int) -> Sight | None:
    inside = np.flatnonzero(track.found[start:stop])
    if len(inside) == 0:
        return None
    part = slice(start + int(inside[0]), start + int(inside[-1]) + 1)
    found = track.found[part]
    landmarks = fill_gaps(track.landmarks[part], found)
    return Sight(part.start, landmarks, bridged(found))
