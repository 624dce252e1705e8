"""Real steps of the real separator, timed, and what the machine can do at best.

Shapes: B batch · K speakers · V video frames · D visual feature size · C channels · F bins ·
N frames.
"""

import copy
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from davss.config import changed
from davss.media import FPS
from davss.posterior.separator import Separator

PEAK_REPEATS, PEAK_SECONDS = 3, 0.2  # calls of each kernel, and the least time spent on it

Say = Callable[[str], None]


class _Enough(Exception):
    """Ends a separation once its steps are measured."""


def time_steps(
    separator: Separator, mixture: torch.Tensor, lips: torch.Tensor, count: int, say: Say
) -> float:
    """Seconds per step of a batch of noise (B, T) with lips (B, K, V, D): the best of `count` after
    one to warm up.

    A separation is begun as the sampler says and left when enough steps are measured.
    """
    # one draw, and its last step, which takes no gradient, is never among those measured
    num_steps = max(separator.sampler.num_steps, count + 2)
    one_draw = copy.copy(separator)
    one_draw.sampler = changed(separator.sampler, num_samples=1, num_steps=num_steps)
    synchronize(separator.device)
    ends = [time.perf_counter()]

    def callback(step: object) -> None:
        synchronize(separator.device)
        ends.append(time.perf_counter())
        measured = len(ends) - 2
        what = f"step {measured} of {count}" if measured else "warm-up"
        say(f"{what}: {ends[-1] - ends[-2]:.3g} s")
        if measured == count:
            raise _Enough

    with suppress(_Enough):
        one_draw(mixture, lips, sample_rate=separator.sample_rate, callback=callback)
    return min(end - begin for begin, end in pairwise(ends[1:]))


def make_noise(
    separator: Separator, batch: int, num_speakers: int, num_samples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise for mixtures (B, T) and for lips (B, K, V, D)."""
    frames = max(round(num_samples / separator.sample_rate * FPS), 1)
    seeded, dim = torch.Generator().manual_seed(0), separator.speech_prior.visual_encoder.dim
    mixture = torch.randn(batch, num_samples, generator=seeded)
    return mixture, torch.randn(batch, num_speakers, frames, dim, generator=seeded)


def conv_peak(
    channels: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    device: str | torch.device,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
) -> float:
    """GFLOP/s of the best channels-last 3×3 convolution C → C of a feature map (B, C, F, N), over
    pairs of C and (F, N).
    """
    rates = []
    for c, (bins, frames) in zip(channels, shapes, strict=True):
        layer = nn.Conv2d(c, c, 3, padding=1, device=device, dtype=dtype)
        layer = layer.to(memory_format=torch.channels_last)
        x = torch.randn(batch_size, c, bins, frames, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        flops = 2 * 9 * c * c * bins * frames * batch_size
        rates.append(best_rate(partial(layer, x), flops, device))
    return max(rates)


@torch.no_grad()
def best_rate(work: Callable[[], Any], flops: int, device: str | torch.device) -> float:
    """GFLOP/s of the fastest of several calls of `work`, after one to warm up."""
    work()
    times: list[float] = []
    while len(times) < PEAK_REPEATS or sum(times) < PEAK_SECONDS:
        synchronize(device)
        begin = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - begin)
    return flops / min(times) / 1e9


def synchronize(device: str | torch.device) -> None:
    """Wait for what is under way on a GPU, whose calls return before their work is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak: of tensors on a GPU, else of the process (kilobytes, on macOS bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return f"{device}, {platform.machine()}, {torch.get_num_threads()} threads"
