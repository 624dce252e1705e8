"""The profile of a workload: its work, its time here, and a forecast for a GPU."""

import math
from dataclasses import dataclass, replace
from typing import Any

from davss.config import NoiseModel, SamplerConfig, SeparationConfig, parse, to_dict
from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.errors import DavssError
from davss.posterior.separator import Separator
from davss.profiling.counting import (
    Evaluations,
    PassFlops,
    count_evaluations,
    num_parameters,
    pass_flops,
)
from davss.profiling.machine import dtype_name
from davss.profiling.timing import Say, Timing, compute_dtype, measure
from davss.profiling.workload import Workload, plan_mixture

H100_TFLOPS = 989.0  # dense bf16 peak of an H100 SXM, from its data sheet
ASSUMED_FRACTION = 0.4  # of that peak; an assumption, not a measurement
ASSUMED_TFLOPS = ASSUMED_FRACTION * H100_TFLOPS


@dataclass(frozen=True)
class Profile:
    """Counts and forecasts of one workload; `timing` is None after a dry run."""

    workload: Workload
    sampler: SamplerConfig
    execution: SeparationConfig
    noise_model: str  # "prior", or the name of one without a network
    sample_rate: int
    dtype: str  # that the networks compute in
    windows: int  # of a mixture
    window_seconds: float
    speech_parameters: int
    noise_parameters: int
    evaluations: Evaluations  # per mixture
    speech_pass: PassFlops  # of one signal of a window
    noise_pass: PassFlops
    mixture_flops: int
    gpu_tflops: float  # assumed sustained rate, TFLOP/s
    gpu_hours: float
    timing: Timing | None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON."""
        return to_dict(self)


def profile(
    speech: SpeechPrior,
    noise: NoisePrior | NoiseModel,
    sampler: SamplerConfig,
    workload: Workload,
    *,
    execution: SeparationConfig | None = None,
    device: str | None = None,
    steps_to_measure: int = 2,
    gpu_tflops: float = ASSUMED_TFLOPS,
    dry_run: bool = False,
    say: Say = lambda line: None,
) -> Profile:
    """Count the work of `workload`, and unless `dry_run` time it on `device`.

    execution: its batch size gives way to the workload's; gpu_tflops: sustained TFLOP/s assumed of
    the GPU to forecast for; say: told of progress.
    Raises DavssError for settings out of range and signals shorter than the networks' window.
    """
    check_settings(steps_to_measure, gpu_tflops)
    settings = to_dict(execution or SeparationConfig()) | {"batch_size": workload.batch_size}
    execution = parse(SeparationConfig, settings)
    separator = Separator(speech, noise, sampler, "cpu" if dry_run else device, execution)
    plan_mixture(separator, workload)  # fails before there is anything to say
    say("counting the work of one forward and one backward …")
    counted = count(separator, workload, gpu_tflops)
    if dry_run:
        return counted
    flops = counted.speech_pass, counted.noise_pass
    timing = measure(separator, workload, flops, counted.mixture_flops, steps_to_measure, say)
    return replace(counted, timing=timing)


def count(separator: Separator, workload: Workload, gpu_tflops: float) -> Profile:
    """What can be said without computing anything."""
    speech, noise = separator.speech_prior, separator.noise_prior
    windows = plan_mixture(separator, workload)
    flops = pass_flops(speech, windows.length), pass_flops(noise, windows.length)
    evaluations = count_evaluations(separator, workload.num_speakers).times(len(windows))
    mixture_flops = evaluations.flops(*flops)
    return Profile(
        workload=workload,
        sampler=separator.sampler,
        execution=separator.execution,
        noise_model=noise if isinstance(noise, str) else "prior",
        sample_rate=separator.sample_rate,
        dtype=dtype_name(compute_dtype(separator)),
        windows=len(windows),
        window_seconds=windows.length / separator.sample_rate,
        speech_parameters=num_parameters(speech),
        noise_parameters=num_parameters(noise),
        evaluations=evaluations,
        speech_pass=flops[0],
        noise_pass=flops[1],
        mixture_flops=mixture_flops,
        gpu_tflops=gpu_tflops,
        gpu_hours=workload.num_mixtures * mixture_flops / (gpu_tflops * 1e12) / 3600,
        timing=None,
    )


def check_settings(steps_to_measure: int, gpu_tflops: float) -> None:
    """Raise DavssError for settings of `davss profile` that are out of range."""
    if steps_to_measure < 1:
        raise DavssError(f"--steps-to-measure {steps_to_measure}: give 1 or more")
    if not (math.isfinite(gpu_tflops) and gpu_tflops > 0):
        raise DavssError(f"--gpu-tflops {gpu_tflops:g}: give a rate in TFLOP/s, such as 100")
