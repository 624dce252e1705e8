"""Whether a face and a sound belong together, and whether a visual encoder knows its lips.

Two questions of a recording itself: does the mouth move when the voice is loud, which any face can
answer, and does the spectrum that `lipsound` predicts from the lips look like that of the sound,
which only lips like those of its training can.

V video frames at 25 per second, T samples, B bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from davss.media import FPS
from davss.networks.lipsound import BANDS, log_mel

LAGS = range(-10, 11)  # frames that the picture of a recording may be late
NEAR = 12  # frames: lips shifted by more have nothing to do with the sound
LEAST_SHIFTS = 20
EXPLAINS = 0.15  # least correlation, see docs/method.md §8
CLEARER = 0.2  # by how much another lag must be better to be believed
FEW = 12  # frames
FLOOR = 0.03  # of the loudest: quieter is all the same
MOST_TRIED = 7  # sources that are tried in every order


@dataclass(frozen=True)
class Verdict:
    """What lips say of a sound: correlation of the predicted and the heard shape of its spectrum,
    what lips out of time reach by `chance` (95 % quantile), `lag` in frames by which the picture is
    late, and whether the lips thus explain the sound.
    """

    correlation: float
    chance: float
    lag: int

    @property
    def explains(self) -> bool:
        """Whether it is more than chance."""
        return self.correlation >= max(EXPLAINS, self.chance)


def judge(
    lips: np.ndarray, audio: np.ndarray, sample_rate: int, others: Sequence[np.ndarray] = ()
) -> Verdict:
    """Whether features of `lipsound` (V, D), NaN where nothing is seen, explain audio (T,), in
    which those of `others` (V, D) speak as well.

    That mouths open when it is loud holds for everyone, and says nothing of whether the encoder can
    read these, nor when of several people another is loud: it is the shape of the spectrum, without
    its level, that counts, and most where this voice is expected to be the loudest.
    """
    bands, heard = lips[:, -BANDS:].astype(np.float64), log_mel(audio, sample_rate)
    num = min(len(bands), len(heard))
    bands, actual = bands[:num], _shape(heard[:num])
    weight = _lead(bands, [other[:num, -BANDS:] for other in others])
    found = {
        lag: correlation(_shape(shifted(bands, lag)), actual, shifted(weight, lag)) for lag in LAGS
    }
    best = max(found, key=lambda lag: found[lag])
    lag = best if found[best] >= found[0] + CLEARER else 0
    predicted, weight = _shape(shifted(bands, lag)), shifted(weight, lag)
    shifts = range(NEAR, num - NEAR, max(num // 200, 1))
    chances = [
        correlation(np.roll(predicted, by, 0), actual, np.roll(weight, by, 0)) for by in shifts
    ]
    chance = float(np.quantile(chances, 0.95)) if len(chances) >= LEAST_SHIFTS else 0.0
    return Verdict(found[lag], chance, lag)


def _lead(bands: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Weights (V, 1) from 0 to 1 of how much louder bands (V, B) are expected than any of `others`;
    a half where that is not known.
    """
    lead = np.zeros(len(bands))
    if others:
        lead = _level(bands) - np.fmax.reduce([_level(other) for other in others])
    return 1 / (1 + np.exp(-2 * np.nan_to_num(lead)))[:, None]


def _level(bands: np.ndarray) -> np.ndarray:
    """Mean of bands (V, B), (V,) of unit variance."""
    level = bands.mean(1)
    known = level[np.isfinite(level)]
    return (level - known.mean()) / max(known.std(), 1e-6) if len(known) else level


def _shape(bands: np.ndarray) -> np.ndarray:
    """Bands (V, B), alike in power, without the level that they have in common."""
    if np.isnan(bands[:, 0]).all():
        return bands
    alike = (bands - np.nanmean(bands, 0)) / np.maximum(np.nanstd(bands, 0), 1e-6)
    return alike - alike.mean(1, keepdims=True)


def shifted(values: np.ndarray, lag: int) -> np.ndarray:
    """Rows (V, B) of a picture that is `lag` frames late where they belong; NaN at the end."""
    moved = np.full_like(values, np.nan)
    num = len(values) - abs(lag)
    if num > 0:
        moved[max(-lag, 0) :][:num] = values[max(lag, 0) :][:num]
    return moved


def correlation(picture: np.ndarray, sound: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Of (V, B) seen and heard, bands centred and those heard alike in power; 0 of too few frames.
    Frames that are NaN do not count, the others by their weight (V, 1), if given.
    """
    known = np.isfinite(picture[:, 0]) & np.isfinite(sound[:, 0])
    if known.sum() < FEW:
        return 0.0
    share = np.ones((len(picture), 1)) if weight is None else weight
    share = share[known] / share[known].sum()
    seen = picture[known] - (share * picture[known]).sum(0)
    heard = sound[known] - (share * sound[known]).sum(0)
    heard = heard / np.maximum(np.sqrt((share * heard**2).sum(0)), 1e-6)
    power = np.sqrt((share * seen**2).sum() * (share * heard**2).sum())
    return float((share * seen * heard).sum() / power) if power > 0 else 0.0


def envelope(audio: np.ndarray, sample_rate: int, num: int) -> np.ndarray:
    """Logarithm of the level of audio (T,) in each of `num` frames, (V, 1); NaN beyond its end."""
    edges = np.arange(num + 1) * sample_rate // FPS
    sums = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    edges = np.minimum(edges, len(audio))
    length = np.diff(edges)
    level = np.sqrt(np.maximum(np.diff(sums[edges]), 0) / np.maximum(length, 1))
    return np.where(length > 0, np.log(level + FLOOR * level.max() + 1e-12), np.nan)[:, None]


def talking(frames: np.ndarray, gap: np.ndarray, num: int) -> np.ndarray:
    """How fast lips open and close, (V, 1), from their `gap` in `frames`; NaN in all others."""
    series = np.full(num, np.nan)
    inside = frames < num
    series[frames[inside]] = gap[inside]
    speed = np.abs(np.gradient(series))
    window = np.lib.stride_tricks.sliding_window_view(np.pad(speed, 2, constant_values=np.nan), 5)
    known = np.isfinite(window)
    mean = np.where(known, window, 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(np.isfinite(series) & known.any(1), mean, np.nan)[:, None]


def agreement(mouth: np.ndarray, sound: np.ndarray) -> float:
    """Best correlation of `talking` and `envelope`, both (V, 1), over the lags that may be."""
    return max(correlation(shifted(mouth, lag), sound) for lag in LAGS)


def assign(mouths: list[np.ndarray], sounds: list[np.ndarray]) -> tuple[list[int], float]:
    """Which of the sounds (V, 1), at least as many as mouths (V, 1), is whose: numbers of sounds,
    the best of all orders; and by how much a mean correlation it is better than the second.
    """
    if not mouths or len(sounds) > MOST_TRIED:
        return list(range(len(mouths))), 1.0 if not mouths else 0.0
    score = np.array([[correlation(mouth, sound) for sound in sounds] for mouth in mouths])
    rows = range(len(mouths))
    orders = list(permutations(range(len(sounds)), len(mouths)))
    ranked = sorted(orders, key=lambda order: -score[rows, order].sum())
    if len(ranked) < 2:
        return list(ranked[0]), 1.0
    first, second = (float(score[rows, order].mean()) for order in ranked[:2])
    return list(ranked[0]), first - second
