"""Examples to listen to: which mixtures the page shows, and their sound and spectrograms.

M = K+1 sources (speakers, then noise), T samples, F bins, N frames.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas
import soundfile
import torch
from PIL import Image

from davss.evaluation.mixtures import Mixture

RANGE_DB = 60.0
LEVELS = 48  # of grey: the eye sees no more, and the pictures are half as heavy
QUANTILES = ((0.5, "median"), (0.0, "worst"), (1.0, "best"))


@dataclass(frozen=True)
class Example:
    """One separated mixture: signals, estimates (M, T), score rows by source, sampler trace."""

    noise_model: str
    condition: str
    why: str
    mixture: Mixture
    estimates: np.ndarray
    scores: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, float]
    trace: Mapping[str, np.ndarray] | None


def choose(scores: pandas.DataFrame, count: int) -> list[tuple[str, str]]:
    """Keys of `count` mixtures of one noise model and condition, and why each was chosen.

    Nothing is picked by hand or for its beauty: the mixture of median SI-SDRi of each number of
    speakers in turn; when all have had one, their worst, then their best.
    """
    speech = scores[scores.source != "noise"].replace([np.inf, -np.inf], np.nan)
    gains = speech.groupby(["num_speakers", "key"]).si_sdri.agg(lambda c: c.mean(skipna=False))
    gains = gains.dropna().sort_values(kind="stable")
    chosen: dict[str, str] = {}
    for quantile, name in QUANTILES:
        for speakers, ranked in gains.groupby(level=0):
            keys = list(ranked.index.get_level_values("key"))
            key = keys[round(quantile * (len(keys) - 1))]
            plural = "speaker" if speakers == 1 else "speakers"
            chosen.setdefault(key, f"{name} SI-SDRi of {len(keys)} with {speakers} {plural}")
    return list(chosen.items())[:count]


def flac(signal: np.ndarray, gain: float, sample_rate: int) -> bytes:
    """A FLAC file (16 bit) of signal (T,) times `gain`."""
    buffer = io.BytesIO()
    audio = np.clip(signal * gain, -1, 1)
    soundfile.write(buffer, audio, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def loudness_gain(example: Example) -> float:
    """One gain for all signals of an example, so that levels can be compared by ear."""
    mixture = example.mixture
    signals = (mixture.mixture, mixture.speech, mixture.noise, example.estimates)
    return 0.9 / max(max(float(np.abs(signal).max()) for signal in signals), 1e-9)


def levels_db(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """Power spectrogram of signal (T,) in dB: (F, N), Hann windows of 32 ms every 8 ms."""
    size = round(0.032 * sample_rate)
    spectrum = torch.stft(
        torch.from_numpy(np.ascontiguousarray(signal, np.float32)),
        size,
        size // 4,
        window=torch.hann_window(size),
        return_complex=True,
    )
    return (20 * torch.log10(spectrum.abs() + 1e-7)).numpy()


def picture(levels: np.ndarray, top: float) -> bytes:
    """A PNG of a spectrogram (F, N) in dB, from `top` − RANGE_DB (dark) to `top` (bright)."""
    shade = np.clip((levels - top) / RANGE_DB + 1, 0, 1)
    image = Image.fromarray(np.round(shade[::-1] * (LEVELS - 1)).astype(np.uint8), mode="P")
    image.putpalette(palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def palette() -> np.ndarray:
    """The colours of `picture`, dark to bright: uint8 (LEVELS, 3)."""
    from matplotlib import colormaps

    colours = colormaps["magma"](np.linspace(0, 1, LEVELS))[:, :3]
    return np.round(255 * colours).astype(np.uint8)
