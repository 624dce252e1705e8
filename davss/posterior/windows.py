"""Long recordings in overlapping windows whose estimates agree where they overlap.

Windows are separated in waves: those of a later wave are conditioned on the estimates that an
earlier wave has left in the overlaps, as in inpainting. There the denoiser returns the known
estimate, so that the reverse process runs towards it and the network sees, across the seam, the
very signal that it has to continue. Estimates are added up with weights normalised by their sum.

Shapes: B batch · M sources · T samples of the recording · W samples of a window.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from davss.posterior.steps import Denoise


@dataclass(frozen=True)
class Windows:
    """Windows of equal length over a recording, in samples; neighbours overlap."""

    starts: tuple[int, ...]
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def total(self) -> int:
        """Samples that the windows cover: the recording, filled up to whole video frames."""
        return self.starts[-1] + self.length

    def in_frames(self, hop: int) -> "Windows":
        """The same windows counted in frames of `hop` samples, which must divide their grid."""
        return Windows(tuple(start // hop for start in self.starts), -(-self.length // hop))

    def overlaps(self, index: int) -> tuple[int, int]:
        """Samples that a window shares with its left and its right neighbour."""
        return self._shared(index - 1), self._shared(index)

    def _shared(self, left: int) -> int:
        if not 0 <= left < len(self) - 1:
            return 0
        return self.length - (self.starts[left + 1] - self.starts[left])


def plan_windows(num_samples: int, grid: int, longest: int, overlap: int) -> Windows:
    """Windows for a recording of `num_samples`, starting on multiples of `grid` (a video frame).

    One window, the recording itself, if it is not longer than `longest` + `overlap`; else as few
    as possible of at most `longest` samples, sharing `overlap`.
    """
    if num_samples <= longest + overlap:
        return Windows((0,), num_samples)
    frames = math.ceil(num_samples / grid)
    most, shared = max(longest // grid, 2), max(min(overlap, longest // 2) // grid, 1)
    count = math.ceil((frames - shared) / (most - shared))
    length = math.ceil((frames + (count - 1) * shared) / count)
    starts = (round(i * (frames - length) / (count - 1)) * grid for i in range(count))
    return Windows(tuple(starts), length * grid)


def waves(count: int, in_order: bool) -> list[list[int]]:
    """Windows that may be separated together, wave after wave.

    Every other window first, then those between, each conditioned on both neighbours. `in_order`
    takes one after the other: where several speakers have no lips, only the window before can say
    who is who.
    """
    if in_order:
        return [[index] for index in range(count)]
    return [wave for wave in (list(range(0, count, 2)), list(range(1, count, 2))) if wave]


class Assembly:
    """Adds up the windows of one recording; what is there already conditions the next.

    rows: shape of what a sample holds, (M,) for sources.
    """

    def __init__(self, windows: Windows, rows: tuple[int, ...]) -> None:
        self.windows = windows
        self.sum = torch.zeros(*rows, windows.total)
        self.weight = torch.zeros(windows.total)

    def add(self, index: int, sources: Tensor) -> None:
        """Add the sources (rows, W) of a window, faded in and out over its overlaps."""
        start, length = self.windows.starts[index], self.windows.length
        weight = fade(length, *self.windows.overlaps(index))
        self.sum[..., start : start + length] += weight * sources
        self.weight[start : start + length] += weight

    def known(self, index: int) -> tuple[Tensor, Tensor]:
        """What earlier windows say about a window: sources (M, W) and how far each sample is
        settled (W,), from 1 at the window's edge to 0 at the inner end of the overlap.
        """
        start, length = self.windows.starts[index], self.windows.length
        part = slice(start, start + length)
        weight = self.weight[part]
        left, right = self.windows.overlaps(index)
        settled = 1 - (2 * fade(length, left, right) - 1).clamp(0, 1)
        settled = torch.where(weight > 0, settled, 0.0)
        return self.sum[..., part] / weight.clamp_min(1e-9), settled

    def result(self, num_samples: int) -> Tensor:
        """The recording's sources (rows, num_samples), once: they take the place of the sums."""
        self.sum /= self.weight.clamp_min_(1e-9)
        return self.sum[..., :num_samples]


def fade(length: int, left: int, right: int) -> Tensor:
    """Weights (length,) that rise over the first `left` and fall over the last `right` samples."""
    weight = torch.ones(length)
    if left:
        weight[:left] = (torch.arange(left) + 0.5) / left
    if right:
        weight[-right:] *= ((torch.arange(right) + 0.5) / right).flip(0)
    return weight


def conditioned(denoise: Denoise, known: Tensor, settled: Tensor) -> Denoise:
    """A denoiser that returns `known` (B, M, W) where `settled` (B, W) is 1."""
    if not settled.any():
        return denoise
    settled = settled[:, None]

    def denoise_rest(u: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(denoise(u, sigma), known, settled)

    return denoise_rest
