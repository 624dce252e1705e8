"""Faces followed through a video, each as a track of its own, and the choice of the one that talks.

A face is followed by its landmarks: the next frame is looked at where they were in this one. The
detector sees the whole picture twice a second, for faces that come in, and whenever none is in
view. A face that is lost is taken up again by the same track where it was, else by a new one.

V video frames, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from davss.errors import DavssError
from davss.media.faces import LEFT_EYE, RIGHT_EYE, Detector, FaceMesh, Region
from davss.media.video import Frames

LOOK = 12  # frames between two looks at the whole picture
PART = 256  # pixels: a picture no larger is looked at as a whole alone
MOST = 8  # faces in view at a time
UPPER_LIP, LOWER_LIP = 13, 14
NEAR_EQUAL = 0.8  # a face this prominent beside the first is as likely the one that is meant
TALKS = 2.0  # then the one whose lips move this much more is taken


@dataclass
class Track:
    """One face: landmarks (V, 468, 2) in pixels, `found` (V,) bool and certainty `scores` (V,)."""

    landmarks: np.ndarray
    found: np.ndarray
    scores: np.ndarray
    last: Region
    lost: bool = False

    @classmethod
    def new(cls, num_frames: int, region: Region) -> Track:
        """A track without a frame yet."""
        landmarks = np.zeros((num_frames, 468, 2), np.float32)
        return cls(landmarks, np.zeros(num_frames, bool), np.zeros(num_frames, np.float32), region)

    def add(self, index: int, points: np.ndarray, score: float) -> None:
        """The face in frame `index`."""
        self.landmarks[index], self.scores[index], self.found[index] = points, score, True
        self.last, self.lost = Region.of_landmarks(points), False


def opening(landmarks: np.ndarray) -> np.ndarray:
    """Gap between the lips (V,), in distances of the outer eye corners; landmarks (V, 468, 2)."""
    gap = np.linalg.norm(landmarks[:, UPPER_LIP] - landmarks[:, LOWER_LIP], axis=-1)
    return gap / np.linalg.norm(landmarks[:, RIGHT_EYE] - landmarks[:, LEFT_EYE], axis=-1)


class Follower:
    """RGB frames uint8 (V, H, W, 3), as an array or `Frames`, → the tracks of all faces seen.

    `closely` looks for faces that are small in a large picture as well.
    """

    def __init__(self, min_score: float = 0.5, closely: bool = False) -> None:
        self.min_score, self.closely = min_score, closely
        self._detector = Detector()
        self._mesh = FaceMesh()

    def __call__(self, frames: np.ndarray | Frames) -> list[Track]:
        """Tracks, in the order in which their faces came into view."""
        return self.follow(frames, len(frames))

    def follow(self, frames: Iterable[np.ndarray], most: int) -> list[Track]:
        """The same of frames that are gone through once, `most` of them at most."""
        tracks: list[Track] = []
        for index, frame in enumerate(frames):
            fresh_loss = False
            for track in tracks:
                if not track.lost:
                    points, score = self._mesh(frame, track.last)
                    if score >= self.min_score and not _doubled(track, points, tracks, index):
                        track.add(index, points, score)
                    else:
                        track.lost = fresh_loss = True
            in_view = any(not track.lost for track in tracks)
            if index % LOOK == 0 or fresh_loss or not in_view:
                self._look_around(frame, index, most, tracks)
        return tracks

    def _look_around(
        self, frame: np.ndarray, index: int, num_frames: int, tracks: list[Track]
    ) -> None:
        """Take up faces of the whole picture that no track is at."""
        for region in self._regions(frame, index % LOOK == 0):
            followed = [track for track in tracks if track.found[index]]
            if len(followed) >= MOST:
                return
            if any(region.distance(track.last) < 0.5 for track in followed):
                continue
            points, score = self._mesh(frame, region)
            place = Region.of_landmarks(points)
            if score < self.min_score or any(place.distance(t.last) < 0.5 for t in followed):
                continue
            near = [t for t in tracks if not t.found[index] and t.last.distance(place) < 1]
            if near:
                track = min(near, key=lambda t: t.last.distance(place))
            else:
                track = Track.new(num_frames, place)
                tracks.append(track)
            track.add(index, points, score)

    def _regions(self, frame: np.ndarray, closely: bool) -> Iterator[Region]:
        """Where faces may be: in the whole picture and, `closely`, in each part of a large one."""
        yield from self._detector(frame)
        height, width = frame.shape[:2]
        side = max(PART, min(height, width) // 2)
        if not (self.closely and closely) or side >= max(height, width):
            return
        for top in _steps(height, side):
            for left in _steps(width, side):
                part = np.ascontiguousarray(frame[top : top + side, left : left + side])
                for region in self._detector(part):
                    yield replace(region, x=region.x + left, y=region.y + top)


def _steps(length: int, side: int) -> list[int]:
    """Where parts of `side` pixels begin that cover `length` and overlap by half."""
    last = max(length - side, 0)
    return sorted({*range(0, last, side // 2), last})


def _doubled(track: Track, points: np.ndarray, tracks: Sequence[Track], index: int) -> bool:
    """Whether an older track is already at this face: two that met would stay together."""
    place = Region.of_landmarks(points)
    older = tracks[: next(i for i, other in enumerate(tracks) if other is track)]
    return any(other.found[index] and place.distance(other.last) < 0.2 for other in older)


def choose(
    tracks: Sequence[Track], size: tuple[int, int], min_found: float, name: str
) -> tuple[Track, int]:
    """The face that is meant, and how many are in view as long; `size` is (H, W).

    Of faces seen in at least `min_found` of the frames it is the largest and most central one. One
    nearly as prominent beside it wins if its lips move twice as much, and makes the video one to
    refuse if neither's do. DavssError when there is no such face or no telling which.
    """
    lasting = [track for track in tracks if track.found.mean() >= min_found]
    if not lasting:
        raise DavssError(f"{name}: {_why_none(tracks, min_found)}")
    ranked = sorted(lasting, key=lambda track: -_prominence(track, size))
    first = _prominence(ranked[0], size)
    rivals = [track for track in ranked if _prominence(track, size) >= NEAR_EQUAL * first]
    if len(rivals) == 1:
        return ranked[0], len(lasting)
    motion = [float(opening(track.landmarks[track.found]).std()) for track in rivals]
    order = np.argsort(motion)[::-1]
    if motion[order[0]] < TALKS * motion[order[1]]:
        raise DavssError(
            f"{name}: {len(rivals)} faces are equally prominent and none talks more than the "
            "others; crop the video to one person"
        )
    return rivals[order[0]], len(lasting)


def _why_none(tracks: Sequence[Track], min_found: float) -> str:
    longest = max((float(track.found.mean()) for track in tracks), default=0.0)
    anyone = float(np.any([track.found for track in tracks], axis=0).mean()) if tracks else 0.0
    if anyone >= min_found:
        return (
            f"no face is in view for more than {100 * longest:.0f} % of its frames, though "
            f"{len(tracks)} come and go; cut the video to one person"
        )
    return (
        f"no face found in {100 * (1 - longest):.0f} % of its frames; give a video in which one"
        " face, seen from the front, fills a good part of the picture"
    )


def _prominence(track: Track, size: tuple[int, int]) -> float:
    """Size of a face in pixels, less the farther it is from the middle of the picture."""
    points = track.landmarks[track.found]
    extent = (points.max(1) - points.min(1)).max(1).mean()
    offset = points.mean((0, 1)) - np.array([size[1], size[0]]) / 2
    return float(extent * (1 - 0.5 * np.hypot(*offset) / (np.hypot(*size) / 2)))
