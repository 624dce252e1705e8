"""Eigenlips together with what they say of the sound: the better of the small visual encoders.

A linear regression from half a second of eigenlips to the log-mel spectrum of their own speech,
fitted to the training split. FiLM is pointwise in time: here it gets the time around a frame, and
the network does not have to learn from scratch how mouths sound.

V video frames, T samples, D = 2 × components + BANDS, X eigenlips features of a context.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import safetensors
import torch
import torchaudio
from safetensors.numpy import save_file

from davss.errors import DavssError
from davss.media import FPS
from davss.networks.eigenlips import Eigenlips
from davss.storage import publish

BANDS = 20
CONTEXT = 6  # frames before and behind that a prediction sees
FLOOR_DB = -60.0  # below the mean power of a clip: silence is silence
RIDGE = 1e-2  # of the mean variance of a feature


class LipSound:
    """Eigenlips (V, 2C) and predicted log-mel bands (V, BANDS), both of unit variance.

    `weights` (X + 1, BANDS) is the regression, its last row the constant.
    """

    def __init__(self, eigenlips: Eigenlips, weights: np.ndarray) -> None:
        self.eigenlips, self.weights = eigenlips, weights

    @property
    def dim(self) -> int:
        """Feature size D."""
        return self.eigenlips.dim + BANDS

    @classmethod
    def fit(
        cls,
        eigenlips: Eigenlips,
        clips: Iterable[tuple[np.ndarray, np.ndarray]],
        sample_rate: int,
    ) -> LipSound:
        """Fit to pairs of mouth crops uint8 (V, 96, 96) and their sound (T,), in one pass."""
        size = (2 * CONTEXT + 1) * eigenlips.dim + 1
        inputs, products = np.zeros((size, size)), np.zeros((size, BANDS))
        totals, squares, num_frames = np.zeros(BANDS), np.zeros(BANDS), 0
        for mouth, audio in clips:
            context, bands = _contexts(eigenlips(mouth)), log_mel(audio, sample_rate)
            num = min(len(context), len(bands))
            context, bands = context[:num], bands[:num]
            inputs += context.T @ context
            products += context.T @ bands
            totals += bands.sum(axis=0)
            squares += (bands**2).sum(axis=0)
            num_frames += num
        ridge = RIDGE * np.trace(inputs) / size * np.eye(size)
        ridge[-1, -1] = 0  # the constant is free
        weights = np.linalg.solve(inputs + ridge, products)
        mean = totals / num_frames
        deviation = np.sqrt(np.maximum(squares / num_frames - mean**2, 1e-9))
        weights[-1] -= mean
        return cls(eigenlips, (weights / deviation).astype(np.float32))

    def __call__(self, mouth: np.ndarray) -> np.ndarray:
        """Features float32 (V, D) of mouth crops uint8 (V, 96, 96)."""
        features = self.eigenlips(mouth)
        bands = _contexts(features) @ self.weights.astype(np.float64)
        return np.concatenate([features, bands], axis=1).astype(np.float32)

    def batch(self, mouths: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features of several clips."""
        return [self(mouth) for mouth in mouths]

    def save(self, path: Path) -> None:
        """Write a safetensors file, all or nothing."""
        with publish(Path(path)) as temporary:
            tensors = {
                "basis": np.ascontiguousarray(self.eigenlips.basis),
                "scale": self.eigenlips.scale,
                "weights": np.ascontiguousarray(self.weights),
            }
            save_file(tensors, temporary, metadata={"kind": "lipsound"})

    @classmethod
    def load(cls, path: Path) -> LipSound:
        """Read what `save` wrote; DavssError for a missing or foreign file."""
        try:
            with safetensors.safe_open(path, framework="numpy") as stored:
                basis, scale, weights = map(stored.get_tensor, ("basis", "scale", "weights"))
        except (safetensors.SafetensorError, OSError):
            raise DavssError(f"{path}: not a lipsound file; run the shards stage again") from None
        return cls(Eigenlips(basis, scale), weights)


def log_mel(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log-mel bands (V, BANDS) in dB over the clip's mean, a row per video frame, of audio (T,)."""
    hop = sample_rate // FPS
    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate, n_fft=2 * hop, hop_length=hop, n_mels=BANDS, f_min=60.0, center=True
    )
    # a frame's window is centred on the middle of the frame, not on its first sample
    shifted = torch.nn.functional.pad(torch.from_numpy(audio)[hop // 2 :], (0, hop // 2))
    power = transform(shifted)[:, : len(audio) // hop].T.double()
    decibels = 10 * torch.log10(power / power.mean().clamp_min(1e-20) + 10 ** (FLOOR_DB / 10))
    return decibels.numpy()


def _contexts(features: np.ndarray) -> np.ndarray:
    """Features (V, 2C) → (V, X + 1): those of the frames around each, and a one."""
    padded = np.pad(features.astype(np.float64), ((CONTEXT, CONTEXT), (0, 0)), mode="edge")
    around = [padded[shift : shift + len(features)] for shift in range(2 * CONTEXT + 1)]
    return np.concatenate([*around, np.ones((len(features), 1))], axis=1)
