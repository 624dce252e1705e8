"""Variations of training crops, for corpora that hold too few recordings.

Sums of recordings, playing them faster or slower, and colouring them make many scenes of few.
Voices are only coloured and made thin or dull, as microphones and lines do: a sum is no single
voice, and a changed speed would part a voice from its lips. All keep the level of a crop.
T samples.
"""

from __future__ import annotations

import numpy as np

OCTAVES = 6  # of the curve by which a crop is coloured, counted down from half the sample rate


def read_length(num_samples: int, speed: float) -> int:
    """Samples that, played at `speed`, last as long as `num_samples` (2: twice as fast)."""
    return max(round(num_samples * speed), 2)


def change_speed(audio: np.ndarray, num_samples: int) -> np.ndarray:
    """The recording (S,) in `num_samples`, its pitch changed with its speed: (T,) float32.

    Band-limited, as if it were periodic: the first and last milliseconds ring a little.
    """
    if len(audio) == num_samples:
        return audio
    resampled = np.fft.irfft(np.fft.rfft(audio), n=num_samples) * (num_samples / len(audio))
    return resampled.astype(np.float32)


def add(audio: np.ndarray, other: np.ndarray, decibel: float) -> np.ndarray:
    """Sum of two crops (T,) of equal level, the other changed by `decibel`; the level is kept."""
    gain = np.float32(10 ** (decibel / 20))
    return (audio + gain * other) / np.sqrt(np.float32(1) + gain**2)


def colour(audio: np.ndarray, decibels: np.ndarray) -> np.ndarray:
    """The crop (T,) filtered by a curve through `decibels` (OCTAVES + 1,), one for each octave
    downwards from half the sample rate, constant below the last; its level is kept.
    """
    bins = len(audio) // 2 + 1
    octave = np.log2(bins / np.maximum(np.arange(bins), 1))
    return _filtered(audio, 10 ** (np.interp(octave, np.arange(OCTAVES + 1), decibels) / 20))


def thin(audio: np.ndarray, cutoff: float) -> np.ndarray:
    """The crop (T,) as a poor microphone hears it: below `cutoff`, in cycles per sample, it falls
    by 12 dB an octave, as behind a Butterworth filter of second order; its level is kept.
    """
    frequency = np.fft.rfftfreq(len(audio))
    return _filtered(audio, (1 + (cutoff / np.maximum(frequency, 1e-9)) ** 4) ** -0.5)


def dull(audio: np.ndarray, cutoff: float) -> np.ndarray:
    """The crop (T,) as a narrow line or codec leaves it: above `cutoff`, in cycles per sample, it
    falls by 36 dB an octave, as behind a Butterworth filter of sixth order; its level is kept.
    """
    return _filtered(audio, (1 + (np.fft.rfftfreq(len(audio)) / cutoff) ** 12) ** -0.5)


def _filtered(audio: np.ndarray, gain: np.ndarray) -> np.ndarray:
    coloured = np.fft.irfft(np.fft.rfft(audio) * gain, n=len(audio))
    level = np.sqrt(np.mean(np.square(coloured)))
    scale = np.sqrt(np.mean(np.square(audio, dtype=np.float64))) / max(level, 1e-12)
    return (coloured * scale).astype(np.float32)
