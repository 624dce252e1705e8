"""Sample rates changed, in memory and time in proportion to the length, whatever the ratio."""

from __future__ import annotations

import math

import soxr
import torch
import torchaudio.functional
from torch import Tensor

BLOCK = 1 << 22  # samples resampled at a time, which takes several times their memory
MARGIN = 16  # in periods of the ratio, of which torchaudio's filters reach over 7
MOST_TAPS = 1 << 20  # of all the filters of a ratio: 44.1 → 16 kHz has 76,000


def resample(signal: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Band-limited resampling of float32 (..., T) to (..., ceil(T·to/from)); rates in Hz.

    By torchaudio, which has a filter for every phase of the ratio; one of many phases, such as
    47,999 Hz to 16 kHz, by soxr, which interpolates between them.
    """
    if from_rate == to_rate:
        return signal
    common = math.gcd(from_rate, to_rate)
    old, new = from_rate // common, to_rate // common
    if new * (old + 12 * max(old, new) // new) <= MOST_TAPS:
        return _in_blocks(signal, old, new)
    length = -(-signal.shape[-1] * new // old)
    found = signal.new_zeros(*signal.shape[:-1], length)
    rows = zip(found.view(-1, length), signal.reshape(-1, signal.shape[-1]), strict=True)
    for row, source in rows:
        made = torch.from_numpy(soxr.resample(source.cpu().numpy(), from_rate, to_rate))[:length]
        row[: len(made)] = made
    return found


def _in_blocks(signal: Tensor, old: int, new: int) -> Tensor:
    """By torchaudio; a long signal block by block, each with its surroundings."""
    length = signal.shape[-1]
    if length <= BLOCK:
        return torchaudio.functional.resample(signal, old, new)
    found = signal.new_empty(*signal.shape[:-1], -(-length * new // old))
    step = BLOCK // old * old
    for begin in range(0, length, step):
        before = min(begin, MARGIN * old)
        part = signal[..., begin - before : begin + step + MARGIN * old]
        start, skip = begin // old * new, before // old * new
        part = torchaudio.functional.resample(part, old, new)[..., skip:][..., : step // old * new]
        found[..., start : start + part.shape[-1]] = part[..., : found.shape[-1] - start]
    return found
