"""Sample rates changed, in memory and time in proportion to the length, whatever the ratio."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import soxr
import torch
import torchaudio.functional
from torch import Tensor

BLOCK = 1 << 20  # samples resampled at a time, which takes several times their memory
MARGIN = 16  # in periods of the ratio, of which torchaudio's filters reach over 7
MOST_TAPS = 1 << 20  # of all the filters of a ratio: 44.1 → 16 kHz has 76,000


def resample(signal: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Band-limited resampling of float32 (..., T) to (..., ceil(T·to/from)); rates in Hz.

    By torchaudio, which has a filter for every phase of the ratio; one of many phases, such as
    47,999 Hz to 16 kHz, by soxr, which interpolates between them.
    """
    blocks = resample_blocks(signal, from_rate, to_rate)
    start, part = next(blocks)
    length = -(-signal.shape[-1] * to_rate // from_rate)
    if part.shape[-1] == length:
        return part
    found = signal.new_empty(*signal.shape[:-1], length)
    for place, block in chain([(start, part)], blocks):
        found[..., place : place + block.shape[-1]] = block
    return found


def resample_blocks(signal: Tensor, from_rate: int, to_rate: int) -> Iterator[tuple[int, Tensor]]:
    """The same in blocks (..., n), each with its place; one that is short is a single block."""
    if from_rate == to_rate:
        yield 0, signal
        return
    common = math.gcd(from_rate, to_rate)
    old, new = from_rate // common, to_rate // common
    if new * (old + 12 * max(old, new) // new) > MOST_TAPS:
        yield 0, _by_soxr(signal, old, new)
        return
    length = signal.shape[-1]
    if length <= BLOCK:
        yield 0, torchaudio.functional.resample(signal, old, new)
        return
    periods = max(BLOCK // max(old, new), 1)
    for begin in range(0, length, periods * old):
        before = min(begin, MARGIN * old)
        part = signal[..., begin - before : begin + (periods + MARGIN) * old]
        skip = before // old * new
        part = torchaudio.functional.resample(part, old, new)[..., skip : skip + periods * new]
        yield begin // old * new, part


def _by_soxr(signal: Tensor, old: int, new: int) -> Tensor:
    length = -(-signal.shape[-1] * new // old)
    found = signal.new_zeros(*signal.shape[:-1], length)
    rows = zip(found.view(-1, length), signal.reshape(-1, signal.shape[-1]), strict=True)
    for row, source in rows:
        made = torch.from_numpy(soxr.resample(source.cpu().numpy(), old, new))[:length]
        row[: len(made)] = made
    return found
