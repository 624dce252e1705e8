"""The two networks of MediaPipe that find faces, under `cv2.dnn`: BlazeFace and Face Mesh.

Neither network is thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

MODELS = Path(__file__).parent / "models"
RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners, in the numbers of Face Mesh


@dataclass(frozen=True)
class Region:
    """A square around a face: centre and side in pixels, and the angle of its eyes in radians."""

    x: float
    y: float
    side: float
    angle: float

    @classmethod
    def of(cls, centre: np.ndarray, side: float, eye_line: np.ndarray) -> Region:
        """The region about `centre` (2,) that is turned with the line (2,) between the eyes."""
        angle = np.arctan2(eye_line[1], eye_line[0])
        return cls(float(centre[0]), float(centre[1]), side, float(angle))

    @classmethod
    def of_landmarks(cls, points: np.ndarray) -> Region:
        """The region in which the face with landmarks (468, 2) is looked for in the next frame."""
        low, high = points.min(0), points.max(0)
        side = 1.5 * float((high - low).max())
        return cls.of((low + high) / 2, side, points[LEFT_EYE] - points[RIGHT_EYE])

    def distance(self, other: Region) -> float:
        """Between the centres, in sides of the larger region."""
        return float(np.hypot(self.x - other.x, self.y - other.y)) / max(self.side, other.side)


class Detector:
    """BlazeFace, short range: the faces of a frame."""

    SIZE = 128

    def __init__(self, min_score: float = 0.5) -> None:
        self._net = _load("face_detection_short_range.tflite")
        self._anchors = np.concatenate([_anchor_centres(16, 2), _anchor_centres(8, 6)])
        self._min_score = min_score

    def __call__(self, frame: np.ndarray) -> list[Region]:
        """Faces of an RGB frame (H, W, 3), the surest first; one that overlaps a surer is left."""
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
        logits = logits[0, :, 0]
        faces: list[Region] = []
        for index in np.argsort(-logits, kind="stable"):
            if _sigmoid(float(logits[index])) < self._min_score:
                break
            values = boxes[0, index].reshape(8, 2) / self.SIZE
            size = float(values[1].max()) * side
            points = (values[[0, 2, 3]] + self._anchors[index]) * side - (shift_x, shift_y)
            centre, right_eye, left_eye = points
            face = Region.of(centre, 1.5 * size, left_eye - right_eye)
            if all(face.distance(other) > 0.5 for other in faces):
                faces.append(face)
        return faces


class FaceMesh:
    """Face Mesh: landmarks (468, 2) in pixels and the certainty that the region holds a face."""

    SIZE = 192

    def __init__(self) -> None:
        self._net = _load("face_landmark.tflite")

    def __call__(self, frame: np.ndarray, region: Region) -> tuple[np.ndarray, float]:
        """Landmarks of the face in `region` of an RGB frame (H, W, 3), and its certainty."""
        side, angle = region.side, region.angle
        cosine, sine = np.cos(angle) * side / self.SIZE, np.sin(angle) * side / self.SIZE
        turn = np.array([[cosine, -sine], [sine, cosine]])
        origin = np.array([region.x, region.y]) - turn @ np.full(2, self.SIZE / 2)
        back = np.column_stack([turn, origin]).astype(np.float32)  # network pixels → frame pixels
        patch = cv2.warpAffine(
            frame, back, (self.SIZE, self.SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        self._net.setInput(cv2.dnn.blobFromImage(patch, 1 / 255))
        points, logit = self._net.forward(["conv2d_20", "conv2d_30"])
        points = points.reshape(468, 3)[:, :2] @ turn.T + origin
        return points.astype(np.float32), _sigmoid(float(logit.ravel()[0]))


def _load(name: str) -> cv2.dnn.Net:
    path = str(MODELS / name)
    # OpenCV 5's new engine hides all outputs but one; OpenCV 4 knows only the classic engine.
    if hasattr(cv2.dnn, "ENGINE_CLASSIC"):
        return cv2.dnn.readNetFromTFLite(path, cv2.dnn.ENGINE_CLASSIC)
    return cv2.dnn.readNetFromTFLite(path)


def _anchor_centres(grid: int, per_cell: int) -> np.ndarray:
    ticks = (np.arange(grid) + 0.5) / grid
    y, x = np.meshgrid(ticks, ticks, indexing="ij")
    return np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), per_cell, axis=0)


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + float(np.exp(-np.clip(logit, -50, 50))))
