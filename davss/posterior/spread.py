"""How far the draws of a source differ, per time and frequency: what the sampler is unsure of.

Shapes: S draws · B batch · M sources · T samples · F bins · N frames.
"""

import math

import torch
from torch import Tensor

from davss.networks.spectrum import stft

WINDOW_SECONDS, HOP_SECONDS = 0.032, 0.008  # five frames to a video frame


def hop_length(sample_rate: int) -> int:
    """Samples from frame to frame."""
    return round(HOP_SECONDS * sample_rate)


def spread(draws: Tensor, sample_rate: int) -> Tensor:
    """Standard deviation over draws (S, B, M, T) in every bin of the STFT: (B, M, F, N).

    Hann windows of 32 ms, frame n centred on n times 8 ms, N the smallest that covers T; unit
    energy, so that white noise of RMS r around a common mean gives r in every bin.
    """
    hop, size = hop_length(sample_rate), round(WINDOW_SECONDS * sample_rate)
    frames = -(-draws.shape[-1] // hop)
    total = torch.zeros(())
    deviations = draws - draws.mean(dim=0)
    for deviation in deviations:  # one after the other: S spectrograms need not be held at once
        total = total.to(draws) + stft(deviation, size, hop)[..., :frames].abs().square()
    return (total / max(len(draws) - 1, 1)).sqrt()


def confidence(source: Tensor, spread: Tensor, sample_rate: int) -> list[float | None]:
    """The share of a source's energy, in each second, on which the draws agree: E / (E + V) with E
    the energy of their mean (T,) and V that of their `spread` (F, N); None where both are zero.
    """
    found: list[float | None] = []
    for second in range(math.ceil(len(source) / sample_rate)):
        start, stop = second * sample_rate, (second + 1) * sample_rate
        frames = spread[:, start // hop_length(sample_rate) : stop // hop_length(sample_rate)]
        energy = float(source[start:stop].square().mean())
        total = energy + float(frames.square().mean())
        found.append(round(energy / total, 3) if total > 0 else None)
    return found
