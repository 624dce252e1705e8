"""What a machine can do at best: peaks of arithmetic, and its memory.

Shapes: B batch · C channels · F bins · N frames.
"""

import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

PEAK_REPEATS, PEAK_SECONDS = 3, 0.2  # calls of each kernel, and the least time spent on it


def matmul_peak(
    device: str | torch.device, dtype: torch.dtype = torch.float32, size: int | None = None
) -> float:
    """GFLOP/s of the product of two square matrices of `size`, by default one large enough for
    the device.

    Torch rounds float32 products to TF32 on a GPU only when told to, convolutions without being
    told: there these may exceed the float32 product.
    """
    size = size or (8192 if torch.device(device).type == "cuda" else 1536)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return best_rate(lambda: a @ b, 2 * size**3, device)


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


def start_of_memory(device: torch.device) -> int:
    """Begin to watch the peak of memory; what `memory_since` takes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    return largest_resident_size()


def memory_since(device: torch.device, before: int) -> tuple[int, str]:
    """Bytes at the peak since `start_of_memory`, and what they are."""
    if device.type == "cuda":
        kind = "peak of tensors on the GPU, weights included (max_memory_allocated)"
        return torch.cuda.max_memory_allocated(device), kind
    return largest_resident_size() - before, "growth of the process's peak (ru_maxrss), no weights"


def largest_resident_size() -> int:
    """Bytes; the operating system reports them in kilobytes, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return f"{device}, {platform.machine()}, {torch.get_num_threads()} threads"


def dtype_name(dtype: torch.dtype) -> str:
    """float32, bfloat16 …"""
    return str(dtype).removeprefix("torch.")
