"""The mouth of a face video: find the face, align it by its landmarks, crop (docs/method.md §8).

V video frames, H × W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from davss.errors import DavssError
from davss.media import CROP, FPS
from davss.media.faces import LEFT_EYE, RIGHT_EYE
from davss.media.tracks import Follower, Track, choose, opening
from davss.media.video import Frames

__all__ = ["FaceQuality", "Mouth", "MouthFinder", "crop_mouths", "opening"]

# Face Mesh numbers of the stable points 28, 33, 36, 39, 42, 45, 48, 54 of the 68-point scheme, and
# the lips.
STABLE = (197, 2, 33, 133, 362, 263, 61, 291)
RIGID = (6, 197, 2, 33, 133, 362, 263)
NOSE_TIP = 1
LIPS = tuple(
    [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146]
    + [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95]
)
# Where the stable points lie in a 256×256 mean face: outer eye corners 104 apart, so a mouth of
# about 52.
MEAN_FACE = np.array(
    [(128, 122), (128, 154), (76, 96), (108, 98), (148, 98), (180, 96), (102, 182), (154, 182)],
    dtype=np.float32,
)
SMOOTHING = 6  # frames on either side
MAX_TURNED = 0.5  # share of frames in which a face may be seen from the side


@dataclass(frozen=True)
class FaceQuality:
    """How well a face was seen: `faces` in view as long as it, `share` of frames with it, mean
    `score` of Face Mesh (0…1), `jitter` (RMS of the second difference of the stable points, in
    pixels of the picture), and `turned`, the share of frames with the face seen from the side.
    """

    faces: int
    share: float
    score: float
    jitter: float
    turned: float


@dataclass(frozen=True)
class Mouth:
    """Mouth `crops` uint8 (V, 96, 96), `landmarks` (V, 468, 2) in pixels, face `found` (V,)."""

    crops: np.ndarray
    landmarks: np.ndarray
    found: np.ndarray
    quality: FaceQuality


class MouthFinder:
    """RGB frames uint8 (V, H, W, 3) → `Mouth`; DavssError when too few frames show one face.

    Frames may be an array or the `Frames` of a video, which are gone through twice; in its gaps
    there is no face. Of several faces `tracks.choose` takes one. Frames without it are
    interpolated from their neighbours; `max_gap` is the number of them that may follow one
    another, None any. An instance is not thread-safe.
    """

    def __init__(
        self, min_found: float = 0.8, min_score: float = 0.5, max_gap: int | None = None
    ) -> None:
        self.min_found, self.max_gap = min_found, max_gap
        self._follow = Follower(min_score)

    def __call__(self, frames: np.ndarray | Frames, name: str = "video") -> Mouth:
        tracks = self._follow(frames)
        if isinstance(frames, Frames):
            for track in tracks:
                track.found &= frames.seen
        height, width = next(iter(frames)).shape[:2]
        track, faces = choose(tracks, (height, width), self.min_found, name)
        quality = _quality(track, faces)
        self._refuse(track, quality, name)
        landmarks = fill_gaps(track.landmarks, track.found)
        return Mouth(crop_mouths(frames, landmarks), landmarks, track.found, quality)

    def _refuse(self, track: Track, quality: FaceQuality, name: str) -> None:
        if quality.turned > MAX_TURNED:
            raise DavssError(
                f"{name}: the face is seen from the side in {100 * quality.turned:.0f} % of its "
                "frames; give a video that shows it from the front"
            )
        first, last = np.flatnonzero(track.found)[[0, -1]]
        at_ends = max(int(first), len(track.found) - 1 - int(last))
        if self.max_gap is not None and at_ends > min(SMOOTHING, self.max_gap):
            raise DavssError(
                f"{name}: no face in the {'first' if first == at_ends else 'last'} "
                f"{at_ends / FPS:.2f} s, where there is nothing to interpolate from; cut them off"
            )
        start, length = _longest_gap(track.found)
        if self.max_gap is not None and length > self.max_gap:
            raise DavssError(
                f"{name}: no face for {length / FPS:.2f} s from {start / FPS:.2f} s on, longer "
                f"than {self.max_gap / FPS:.2f} s; cut the clip there"
            )


def _quality(track: Track, faces: int) -> FaceQuality:
    landmarks, found = track.landmarks, track.found
    runs = found[2:] & found[1:-1] & found[:-2]
    bends = np.diff(landmarks[:, list(STABLE)], n=2, axis=0)[runs]
    jitter = float(np.sqrt(np.square(bends).sum(-1).mean())) if len(bends) else 0.0
    score = float(track.scores[found].mean())
    return FaceQuality(faces, float(found.mean()), score, jitter, turned(landmarks[found]))


def turned(landmarks: np.ndarray) -> float:
    """Share of the frames, landmarks (V, 468, 2), in which the face is seen from the side."""
    eyes = landmarks[:, LEFT_EYE] - landmarks[:, RIGHT_EYE]
    nose = landmarks[:, NOSE_TIP] - (landmarks[:, LEFT_EYE] + landmarks[:, RIGHT_EYE]) / 2
    # 1 where the tip of the nose is as far to the side as the outer corner of an eye
    side = np.abs((nose * eyes).sum(-1)) / np.maximum((eyes * eyes).sum(-1) / 2, 1e-9)
    return float((side > 1).mean())


def _longest_gap(found: np.ndarray) -> tuple[int, int]:
    """First frame and length of the longest stretch without a face."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ~found, [0]])))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    if len(lengths) == 0:
        return 0, 0
    longest = int(lengths.argmax())
    return int(starts[longest]), int(lengths[longest])


def crop_mouths(frames: np.ndarray | Frames, landmarks: np.ndarray) -> np.ndarray:
    """Align RGB frames (V, H, W, 3) by landmarks (V, 468, 2) and cut gray uint8 (V, 96, 96)."""
    crops = np.empty((len(frames), CROP, CROP), np.uint8)
    for index, (frame, points) in enumerate(zip(frames, smooth(landmarks), strict=True)):
        crops[index] = crop_mouth(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), points)
    return crops


def crop_mouth(gray: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The crop uint8 (96, 96) of one gray frame (H, W) by smoothed landmarks (468, 2)."""
    matrix = similarity(points[list(STABLE)], MEAN_FACE)
    mouth = matrix[:, :2] @ points[list(LIPS)].mean(0) + matrix[:, 2]
    matrix[:, 2] += CROP / 2 - mouth
    shrink = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if shrink < 0.7:  # a large face: average pixels first, or the warp would alias
        gray = cv2.resize(gray, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        matrix[:, :2] /= shrink
    return cv2.warpAffine(gray, matrix, (CROP, CROP), borderMode=cv2.BORDER_REPLICATE)


def fill_gaps(landmarks: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Landmarks (V, 468, 2) with those of frames that are not `found` (V,) between neighbours'."""
    if found.all():
        return landmarks
    known, every = np.flatnonzero(found), np.arange(len(found))
    after = np.clip(np.searchsorted(known, every), 0, len(known) - 1)
    before = np.clip(np.searchsorted(known, every, side="right") - 1, 0, len(known) - 1)
    left, right = known[before], known[after]
    weight = ((every - left) / np.maximum(right - left, 1)).clip(0, 1)[:, None, None]
    return ((1 - weight) * landmarks[left] + weight * landmarks[right]).astype(np.float32)


def smooth(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks (V, 468, 2) whose shape is averaged over ±SMOOTHING frames; the place of the rigid
    points stays that of the frame.
    """
    sums = np.cumsum(np.concatenate([np.zeros_like(landmarks[:1]), landmarks]), axis=0, dtype=float)
    index = np.arange(len(landmarks))
    first = np.maximum(index - SMOOTHING, 0)
    last = np.minimum(index + SMOOTHING + 1, len(landmarks))
    mean = (sums[last] - sums[first]) / (last - first)[:, None, None]
    rigid = list(RIGID)
    return mean + (landmarks[:, rigid] - mean[:, rigid]).mean(1, keepdims=True)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) of least squares for target = s R source + t, points (P, 2)."""
    # s R = [[a, −b], [b, a]]: complex regression
    z = source @ (1, 1j)
    w = target @ (1, 1j)
    z0, w0 = z.mean(), w.mean()
    ratio = np.vdot(z - z0, w - w0) / max(float(np.vdot(z - z0, z - z0).real), 1e-9)
    shift = w0 - ratio * z0
    a, b = ratio.real, ratio.imag
    return np.array([[a, -b, shift.real], [b, a, shift.imag]])
