"""What a separation costs here, and what a whole evaluation would: `davss profile`.

Work is counted from the networks themselves and from the sampler's own number of evaluations; time
is that of real steps of the real separator, set beside what this machine can do at best.

Shapes: B batch · K speakers · V video frames · D visual feature size · C channels · F bins ·
N frames · T samples.
"""

import copy
import math
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import Timer

from davss.config import to_dict
from davss.diffusion.guidance import plan_branches
from davss.errors import DavssError
from davss.media import FPS
from davss.posterior.separator import Separator
from davss.posterior.windows import Windows
from davss.profiling.counting import (
    NOT_COUNTED,
    Passes,
    count_passes,
    map_size,
    num_parameters,
    pass_flops,
)

H100_TFLOPS, ASSUMED_FRACTION = 989.0, 0.4  # dense bf16 of an H100 SXM, data sheet; a guess
ASSUMED_TFLOPS = ASSUMED_FRACTION * H100_TFLOPS
PEAK_SECONDS = 0.2  # the least time spent on each kernel
Say = Callable[[str], None]


@dataclass(frozen=True)
class Workload:
    """What is to be separated; raises DavssError naming the flag of `davss profile` at fault."""

    num_speakers: int = 2  # all in view
    seconds: float = 4.0  # length of a mixture
    batch_size: int = 1  # mixtures, or windows of them, that the sampler takes together
    num_mixtures: int = 1000  # size of the evaluation to forecast

    def __post_init__(self) -> None:
        flags = {"--speakers": self.num_speakers, "--batch-size": self.batch_size}
        for flag, count in {**flags, "--mixtures": self.num_mixtures}.items():
            if count < 1:
                raise DavssError(f"{flag} {count}: give 1 or more")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise DavssError(f"--seconds {self.seconds:g}: give a length in seconds, such as 4")


def profile(
    separator: Separator,
    workload: Workload,
    *,
    steps_to_measure: int = 2,
    gpu_tflops: float = ASSUMED_TFLOPS,
    dry_run: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Count the work of `workload`, and unless `dry_run` time it: plain values, ready for JSON.

    gpu_tflops: sustained TFLOP/s assumed of the GPU to forecast for; say: told of progress.
    Raises DavssError for settings out of range and signals shorter than the networks' window.
    """
    if steps_to_measure < 1:
        raise DavssError(f"--steps-to-measure {steps_to_measure}: give 1 or more")
    check_tflops(gpu_tflops)
    speech, noise = separator.speech_prior, separator.noise_prior
    windows = _plan(separator, workload)
    say("counting the work of one forward and one backward …")
    flops = Passes(*pass_flops(speech, windows.length), *pass_flops(noise, windows.length))
    passes = count_passes(separator, workload.num_speakers, len(windows))
    work = passes.flops(flops)
    counted = {
        "workload": asdict(workload),
        "sampler": to_dict(separator.sampler),
        "execution": to_dict(separator.execution),
        "noise_model": noise if isinstance(noise, str) else "prior",
        "sample_rate": separator.sample_rate,
        "dtype": str(separator.dtype).removeprefix("torch."),
        "windows": len(windows),
        "window_seconds": windows.length / separator.sample_rate,
        "speech_parameters": num_parameters(speech),
        "noise_parameters": num_parameters(noise),
        "evaluations": passes._asdict(),
        "pass_flops": flops._asdict(),
        "mixture_flops": work,
        "gpu_tflops": gpu_tflops,
        "gpu_hours": workload.num_mixtures * work / (gpu_tflops * 1e12) / 3600,
    }
    if dry_run:
        return counted | {"timing": None}
    step = count_passes(separator, workload.num_speakers, one_step=True)
    of_batch = workload.batch_size * step.flops(flops)
    return counted | {"timing": _timed(separator, workload, of_batch, work, steps_to_measure, say)}


def _plan(separator: Separator, workload: Workload) -> Windows:
    """The windows of a mixture; raises DavssError for one shorter than the networks' STFT."""
    num_samples = round(workload.seconds * separator.sample_rate)
    priors = (separator.speech_prior, separator.noise_prior)
    shortest = max(prior.network.n_fft for prior in priors if not isinstance(prior, str))
    if num_samples <= shortest:
        raise DavssError(
            f"--seconds {workload.seconds:g}: shorter than the networks' STFT window; give more "
            f"than {shortest / separator.sample_rate:.3f}"
        )
    return separator.plan(num_samples)


def _timed(
    separator: Separator,
    workload: Workload,
    step_flops: int,
    mixture_flops: int,
    steps_to_measure: int,
    say: Say,
) -> dict[str, Any]:
    """What was measured on the device, and what follows from it; rates in GFLOP/s."""
    device, length, batch = separator.device, _plan(separator, workload).length, workload.batch_size
    before = 0 if device.type == "cuda" else _peak_memory(device)
    per_step = time_steps(separator, batch, workload.num_speakers, length, steps_to_measure, say)
    memory = _peak_memory(device) - before
    say("measuring the machine's best convolution …")
    signals = plan_branches(workload.num_speakers, workload.num_speakers, separator.sampler).total
    # by work, as not every step costs the same: the last one of a draw takes no gradient
    per_mixture = per_step * mixture_flops / step_flops
    name = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": f"{device}, {name}",
        "steps_measured": steps_to_measure,
        "seconds_per_step": per_step,  # of a whole batch, the best of those measured
        "achieved_gflops": step_flops / per_step / 1e9,
        "conv_gflops": conv_peak(separator, length, batch * signals),
        "memory_bytes": memory,
        "seconds_per_mixture": per_mixture,
        "real_time_factor": per_mixture / workload.seconds,
        "hours": workload.num_mixtures * per_mixture / 3600,
    }


class _Enough(Exception):
    """Ends a separation once its steps are measured."""


def time_steps(
    separator: Separator, batch: int, num_speakers: int, num_samples: int, count: int, say: Say
) -> float:
    """Seconds per step of a batch of noise (B, T) with lips (B, K, V, D): the best of `count` after
    one to warm up. A separation is begun as the sampler says and left when enough are measured.
    """
    seeded, dim = torch.Generator().manual_seed(0), separator.speech_prior.visual_encoder.dim
    frames = max(round(num_samples / separator.sample_rate * FPS), 1)
    mixture = torch.randn(batch, num_samples, generator=seeded)
    lips = torch.randn(batch, num_speakers, frames, dim, generator=seeded)
    # one draw, and its last step, which takes no gradient, is never among those measured
    num_steps = max(separator.sampler.num_steps, count + 2)
    one_draw = copy.copy(separator)
    one_draw.sampler = replace(separator.sampler, num_samples=1, num_steps=num_steps)
    ends = []

    def callback(step: object) -> None:
        if separator.device.type == "cuda":  # whose calls return before their work is done
            torch.cuda.synchronize(separator.device)
        ends.append(time.perf_counter())
        if (measured := len(ends) - 1) > 0:
            say(f"step {measured} of {count}: {ends[-1] - ends[-2]:.3g} s")
        if measured == count:
            raise _Enough

    with suppress(_Enough):
        one_draw(mixture, lips, sample_rate=separator.sample_rate, callback=callback)
    return min(end - begin for begin, end in pairwise(ends))


@torch.no_grad()
def conv_peak(separator: Separator, num_samples: int, batch_size: int) -> float:
    """GFLOP/s of the best channels-last 3×3 convolution C → C of the speech network's feature maps
    (B, C, F, N), level by level.
    """
    prior, place, rates = separator.speech_prior, (separator.device, separator.dtype), []
    bins, frames = map_size(prior.network, num_samples)
    for level, multiple in enumerate(prior.info.network.ch_mult):
        c = prior.info.network.nf * multiple
        layer = nn.Conv2d(c, c, 3, padding=1).to(*place)
        layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.randn(batch_size, c, bins >> level, frames >> level).to(*place)
        x = x.contiguous(memory_format=torch.channels_last)
        timer = Timer(
            "layer(x)", globals={"layer": layer, "x": x}, num_threads=torch.get_num_threads()
        )
        fastest = min(timer.blocked_autorange(min_run_time=PEAK_SECONDS).times)
        rates.append(2 * 9 * c * x.numel() / fastest / 1e9)
    return max(rates)


def _peak_memory(device: torch.device) -> int:
    """Bytes at the peak: of tensors on a GPU, else of the process (kilobytes, on macOS bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check_tflops(gpu_tflops: float) -> None:
    """Raise DavssError for a rate that no GPU has."""
    if not (math.isfinite(gpu_tflops) and gpu_tflops > 0):
        raise DavssError(f"--gpu-tflops {gpu_tflops:g}: give a rate in TFLOP/s, such as 100")


def assumed(gpu_tflops: float) -> str:
    """Where the rate of a forecast comes from."""
    source = "by --gpu-tflops"
    if gpu_tflops == ASSUMED_TFLOPS:
        source = f"{ASSUMED_FRACTION:.0%} of an H100's {H100_TFLOPS:g} in dense bf16"
    return f"sustains {gpu_tflops:g} TFLOP/s: assumed ({source}), not measured"


def describe(result: dict[str, Any]) -> str:
    """A profile as aligned lines of text."""
    lines = _counted_lines(result) | _timed_lines(result)
    mixtures, hours = result["workload"]["num_mixtures"], brief(result["gpu_hours"])
    lines[f"{mixtures} on a GPU"] = f"{hours} hours if it {assumed(result['gpu_tflops'])}"
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def _counted_lines(result: dict[str, Any]) -> dict[str, str]:
    work, sampler, windows = result["workload"], result["sampler"], ""
    passes = Passes(**result["evaluations"])
    if result["windows"] > 1:
        windows = f"{result['windows']} windows of {result['window_seconds']:.3g} s, "

    def prior(kind: str) -> str:
        forward = si(result["pass_flops"][f"{kind}_forwards"], "FLOP")
        parameters = si(result[f"{kind}_parameters"], "")
        return f"{parameters} parameters, {forward} a forward of one signal"

    without = f"{result['noise_model']}, no network"
    return {
        "mixture": f"{work['num_speakers']} speaker(s) and noise, {work['seconds']:g} s at "
        f"{result['sample_rate']} Hz, {windows}in batches of {work['batch_size']}",
        "sampler": f"{sampler['name']}, {sampler['num_steps']} steps, guidance "
        f"{sampler['guidance_weight']:g}, {sampler['num_samples']} draw(s)",
        "speech prior": prior("speech"),
        "noise prior": prior("noise") if result["noise_model"] == "prior" else without,
        "forwards": f"{passes.speech_forwards + passes.noise_forwards} of single signals a "
        f"mixture: speech {passes.speech_forwards}, noise {passes.noise_forwards}",
        "backwards": f"{passes.speech_backwards + passes.noise_backwards}: speech "
        f"{passes.speech_backwards}, noise {passes.noise_backwards}",
        "work": f"{si(result['mixture_flops'], 'FLOP')} a mixture, two a multiply-add",
        "not counted": NOT_COUNTED,
    }


def _timed_lines(result: dict[str, Any]) -> dict[str, str]:
    timed = result["timing"]
    if timed is None:
        return {"device": "not timed (dry run)"}
    achieved, peak = timed["achieved_gflops"] * 1e9, timed["conv_gflops"] * 1e9
    step, mixture = brief(timed["seconds_per_step"]), brief(timed["seconds_per_mixture"])
    compiled = ", compiled" if result["execution"]["compile"] else ""
    return {
        "device": f"{timed['device']}, {result['dtype']}{compiled}",
        "step": f"{step} s a batch, best of {timed['steps_measured']} after a warm-up",
        "achieved": f"{si(achieved, 'FLOP/s')}, {achieved / peak:.0%} of the best 3×3 "
        f"convolution's {si(peak, 'FLOP/s')}",
        "memory": f"{si(timed['memory_bytes'], 'B')} at the peak, on CPUs without weights",
        "one mixture": f"{mixture} s, real-time factor {brief(timed['real_time_factor'])}",
        f"{result['workload']['num_mixtures']} mixtures": f"{brief(timed['hours'])} hours here",
    }


def si(value: float, unit: str) -> str:
    """A quantity with its decimal prefix: 1.25e12 FLOP → 1.25 TFLOP."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    power = min(max(math.floor(math.log10(value) / 3), 0), 6) if value > 0 else 0
    return f"{brief(value / 1000**power)} {prefixes[power]}{unit}"


def brief(value: float) -> str:
    """A number to three digits, without an exponent where it is large."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"
