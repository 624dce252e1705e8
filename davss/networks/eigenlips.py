"""Eigenlips: lip features by principal components, the small one of the visual encoders.

Mouth crops lose their clip's mean image and contrast (who speaks, and in which light), are
projected on the principal components of the training split, and come with their first difference,
every dimension at unit variance there. A visual encoder is anything callable from mouth crops to
features of size `dim`.

V video frames, D = 2 × components, P pixels of a reduced crop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors
from safetensors.numpy import save_file

from davss.errors import DavssError
from davss.media import CROP
from davss.storage import publish

REDUCTION = 3  # 96×96 → 32×32: mouths move in blobs, and the covariance stays small
_PIXELS = (CROP // REDUCTION) ** 2


class VisualEncoder(Protocol):
    """Mouth crops uint8 (V, 96, 96) → features float32 (V, D)."""

    @property
    def dim(self) -> int:
        """Feature size D."""
        ...

    def __call__(self, mouth: np.ndarray) -> np.ndarray: ...

    def batch(self, mouths: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same for several clips, of any lengths."""
        ...


class Eigenlips:
    """PCA scores of mouth crops and their differences; `basis` (P, components), `scale` (D,)."""

    def __init__(self, basis: np.ndarray, scale: np.ndarray) -> None:
        self.basis, self.scale = basis, scale

    @property
    def dim(self) -> int:
        """Feature size D = 2 × number of components."""
        return len(self.scale)

    @classmethod
    def fit(cls, clips: Iterable[np.ndarray], num_components: int) -> Eigenlips:
        """Fit to mouth crops uint8 (V, 96, 96), one array per clip, in one pass and constant
        memory.

        Raises DavssError when the clips do not span `num_components` dimensions.
        """
        spread = np.zeros((_PIXELS, _PIXELS))
        motion = np.zeros((_PIXELS, _PIXELS))
        num_frames = 0
        for mouth in clips:
            pixels = _reduce(mouth)
            steps = _differences(pixels)
            spread += pixels.T @ pixels
            motion += steps.T @ steps
            num_frames += len(pixels)
        variances, vectors = np.linalg.eigh(spread / max(num_frames, 1))
        variances, basis = variances[::-1][:num_components], vectors[:, ::-1][:, :num_components]
        if num_components > _PIXELS or variances[-1] < 1e-9:
            raise DavssError(
                f"eigenlips: {num_frames} frames do not span {num_components} components; lower "
                "shards.num_components or give more clips"
            )
        # An eigenvector's sign is arbitrary: make its largest weight positive.
        basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(num_components)])
        speeds = np.einsum("pc,pq,qc->c", basis, motion / num_frames, basis)
        scale = 1 / np.sqrt(np.maximum(np.concatenate([variances, speeds]), 1e-9))
        return cls(basis.astype(np.float32), scale.astype(np.float32))

    def __call__(self, mouth: np.ndarray) -> np.ndarray:
        """Features float32 (V, D) of mouth crops uint8 (V, 96, 96)."""
        scores = _reduce(mouth) @ self.basis.astype(np.float64)
        features = np.concatenate([scores, _differences(scores)], axis=1)
        return (features * self.scale).astype(np.float32)

    def batch(self, mouths: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features of several clips."""
        return [self(mouth) for mouth in mouths]

    def save(self, path: Path) -> None:
        """Write a safetensors file, all or nothing."""
        with publish(Path(path)) as temporary:
            tensors = {"basis": np.ascontiguousarray(self.basis), "scale": self.scale}
            save_file(tensors, temporary, metadata={"kind": "eigenlips"})

    @classmethod
    def load(cls, path: Path) -> Eigenlips:
        """Read what `save` wrote; DavssError for a missing or foreign file."""
        if not Path(path).is_file():
            raise DavssError(f"{path}: no eigenlips file; run the shards stage of voxceleb2 first")
        try:
            with safetensors.safe_open(path, framework="numpy") as stored:
                basis, scale = stored.get_tensor("basis"), stored.get_tensor("scale")
        except safetensors.SafetensorError:
            raise DavssError(f"{path}: not an eigenlips file; run the shards stage again") from None
        if basis.shape != (_PIXELS, len(scale) // 2):
            raise DavssError(f"{path}: eigenlips of another crop size; run the shards stage again")
        return cls(basis, scale)


def _reduce(mouth: np.ndarray) -> np.ndarray:
    """Crops (V, 96, 96) → float64 (V, P): area-averaged, clip mean and contrast removed."""
    if mouth.ndim != 3 or mouth.shape[1:] != (CROP, CROP) or len(mouth) == 0:
        raise DavssError(f"mouth crops of shape {mouth.shape}; expected (V, {CROP}, {CROP})")
    side = CROP // REDUCTION
    blocks = mouth.reshape(len(mouth), side, REDUCTION, side, REDUCTION)
    pixels = blocks.mean(axis=(2, 4), dtype=np.float64).reshape(len(mouth), _PIXELS)
    mean = pixels.mean(axis=0)
    return (pixels - mean) / max(float(mean.std()), 1.0)


def _differences(values: np.ndarray) -> np.ndarray:
    """Change since the frame before, (V, X) → (V, X); the first frame has none."""
    return np.diff(values, axis=0, prepend=values[:1])
