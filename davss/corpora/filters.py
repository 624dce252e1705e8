"""Is a recording of speech clean enough for a prior of clean speech? Two plain estimates say.

Levels are those of 25 ms frames, 10 ms apart. T samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from davss.errors import DavssError

WINDOW, HOP = 0.025, 0.010  # seconds
LOUD, FLOOR = 95, 10  # percentiles of the levels: what is loud, and what is heard in pauses
ACTIVE_DB = 30.0  # a frame so far below the loud ones, or farther, is a pause
MAX_SNR_DB = 60.0  # said of recordings with digital silence in their pauses


@dataclass(frozen=True)
class SpeechQuality:
    """Share of frames with speech, 0…1, and the estimated signal-to-noise ratio in dB."""

    active: float
    snr_db: float


def measure_speech(audio: np.ndarray, sample_rate: int) -> SpeechQuality:
    """Estimates for speech (T,) at `sample_rate` Hz.

    A frame is active within 30 dB of the 95th percentile of all levels. The noise has the power of
    the 10th percentile, speech what active frames have beyond it: where nobody pauses for a tenth
    of the time the estimate is too low.
    """
    window, hop = round(WINDOW * sample_rate), round(HOP * sample_rate)
    energy = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    starts = np.arange(0, max(len(audio) - window, 0) + 1, hop)
    power = (energy[np.minimum(starts + window, len(audio))] - energy[starts]) / window
    loud, floor = np.percentile(power, [LOUD, FLOOR])
    active = power > loud * 10 ** (-ACTIVE_DB / 10)
    if not active.any():
        return SpeechQuality(0.0, 0.0)
    speech = max(float(power[active].mean()) - floor, 1e-12)
    snr_db = 10 * np.log10(speech / max(floor, speech * 10 ** (-MAX_SNR_DB / 10)))
    return SpeechQuality(float(active.mean()), float(snr_db))


def require_speech(
    quality: SpeechQuality, min_active: float, min_snr_db: float | None, name: str
) -> None:
    """DavssError naming the recording where an estimate is below its limit."""
    if quality.active < min_active:
        raise DavssError(
            f"{name}: speech in {100 * quality.active:.0f} % of the time, less than "
            f"{100 * min_active:g} %"
        )
    if min_snr_db is not None and quality.snr_db < min_snr_db:
        raise DavssError(f"{name}: estimated SNR {quality.snr_db:.1f} dB, below {min_snr_db:g} dB")
