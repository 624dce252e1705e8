"""Real steps of the real separator, timed beside the machine's peaks.

Shapes: B batch · K speakers · V video frames · D visual feature size.
"""

import copy
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import torch

from davss.config import SamplerConfig, parse, to_dict
from davss.posterior.inputs import VIDEO_RATE
from davss.posterior.separator import Separator
from davss.profiling.counting import (
    PassFlops,
    count_step_evaluations,
    feature_maps,
    plan_speech,
)
from davss.profiling.machine import (
    conv_peak,
    device_name,
    dtype_name,
    matmul_peak,
    memory_since,
    start_of_memory,
    synchronize,
)
from davss.profiling.workload import Workload, plan_mixture

Say = Callable[[str], None]


@dataclass(frozen=True)
class Timing:
    """What was measured on a device, and what follows from it for the workload."""

    device: str
    steps_measured: int
    seconds_per_step: float  # of a whole batch, the best of those measured
    achieved_gflops: float  # GFLOP/s of the counted work
    matmul_gflops: dict[str, float]  # GFLOP/s by dtype: float32, and that of the networks
    conv_gflops: float  # GFLOP/s of the best 3×3 convolution
    fraction_of_matmul: float  # achieved / matmul in the networks' dtype
    fraction_of_conv: float
    memory_bytes: int
    memory_kind: str
    seconds_per_mixture: float
    real_time_factor: float  # seconds of computing per second of audio
    hours: float  # for all mixtures of the workload


def measure(
    separator: Separator,
    workload: Workload,
    flops: tuple[PassFlops, PassFlops],
    mixture_flops: int,
    steps_to_measure: int,
    say: Say,
) -> Timing:
    """Time steps and the machine's peaks; `flops` are those of the speech and the noise prior."""
    device, batch, dtype = separator.device, workload.batch_size, compute_dtype(separator)
    before = start_of_memory(device)
    per_step = time_steps(separator, workload, steps_to_measure, say)
    memory, memory_kind = memory_since(device, before)
    step_flops = batch * count_step_evaluations(separator, workload.num_speakers).flops(*flops)
    say("measuring the machine's peaks …")
    matmul = {dtype_name(t): matmul_peak(device, t) for t in dict.fromkeys([torch.float32, dtype])}
    branches = plan_speech(separator.sampler, workload.num_speakers)
    maps = feature_maps(separator.speech_prior, plan_mixture(separator, workload).length)
    conv = conv_peak(*maps, device, batch * (branches.lips + branches.null), dtype)
    achieved = step_flops / per_step / 1e9
    # by work, as not every step costs the same: the last one of a draw takes no gradient
    per_mixture = per_step * mixture_flops / step_flops
    return Timing(
        device=device_name(device),
        steps_measured=steps_to_measure,
        seconds_per_step=per_step,
        achieved_gflops=achieved,
        matmul_gflops=matmul,
        conv_gflops=conv,
        fraction_of_matmul=achieved / matmul[dtype_name(dtype)],
        fraction_of_conv=achieved / conv,
        memory_bytes=memory,
        memory_kind=memory_kind,
        seconds_per_mixture=per_mixture,
        real_time_factor=per_mixture / workload.seconds,
        hours=workload.num_mixtures * per_mixture / 3600,
    )


class _Enough(Exception):
    """Ends a separation once its steps are measured."""


def time_steps(
    separator: Separator, workload: Workload, steps_to_measure: int, say: Say = lambda line: None
) -> float:
    """Seconds per step of a batch of windows, as many as the separator takes at a time: the best
    of `steps_to_measure` after one to warm up.

    A separation of noise is begun as the sampler says and left when enough steps are measured.
    """
    mixture, lips = make_mixtures(separator, workload)
    # one draw, and its last step, which takes no gradient, is never among those measured
    num_steps = max(separator.sampler.num_steps, steps_to_measure + 2)
    one_draw = copy.copy(separator)
    settings = to_dict(separator.sampler) | {"num_samples": 1, "num_steps": num_steps}
    one_draw.sampler = parse(SamplerConfig, settings)
    synchronize(separator.device)
    ends = [time.perf_counter()]

    def callback(step: object) -> None:
        synchronize(separator.device)
        ends.append(time.perf_counter())
        measured = len(ends) - 2
        what = f"step {measured} of {steps_to_measure}" if measured else "warm-up"
        say(f"{what}: {ends[-1] - ends[-2]:.3g} s")
        if measured == steps_to_measure:
            raise _Enough

    with suppress(_Enough):
        one_draw(mixture, lips, sample_rate=separator.sample_rate, callback=callback)
    return min(end - begin for begin, end in pairwise(ends[1:]))


def make_mixtures(separator: Separator, workload: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise as long as a window (B, T), and noise for lips (B, K, V, D)."""
    num_samples, batch = plan_mixture(separator, workload).length, workload.batch_size
    frames = max(round(num_samples / separator.sample_rate * VIDEO_RATE), 1)
    lips_dim = separator.speech_prior.visual_encoder.dim
    seeded = torch.Generator().manual_seed(0)
    mixture = torch.randn(batch, num_samples, generator=seeded)
    return mixture, torch.randn(batch, workload.num_speakers, frames, lips_dim, generator=seeded)


def compute_dtype(separator: Separator) -> torch.dtype:
    """The type that the networks' convolutions compute in: that of the weights, or autocast's."""
    with separator._precision():
        if torch.is_autocast_enabled(separator.device.type):
            return torch.get_autocast_dtype(separator.device.type)
    return next(separator.speech_prior.network.parameters()).dtype
