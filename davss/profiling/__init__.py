"""What a separation costs here, and what a whole evaluation would: `davss profile`.

Work is counted from the networks themselves and from the sampler's own number of evaluations; time
is that of real steps of the real separator, set beside what this machine can do at best.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from davss.config import DiffusionConfig, NetworkConfig, ShardsConfig, to_dict
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior
from davss.errors import DavssError
from davss.networks.eigenlips import Eigenlips
from davss.posterior.separator import Separator
from davss.posterior.windows import Windows
from davss.profiling import counting, timing

H100_TFLOPS, ASSUMED_FRACTION = 989.0, 0.4  # dense bf16 of an H100 SXM, data sheet; a guess
ASSUMED_TFLOPS = ASSUMED_FRACTION * H100_TFLOPS


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


def untrained_prior(info: PriorInfo, lips_dim: int | None = None) -> SpeechPrior | NoisePrior:
    """A prior that costs what a trained one does: a speech prior where `lips_dim` is given."""
    if lips_dim is None:
        return NoisePrior(info)
    return SpeechPrior(info, Eigenlips(np.zeros((1, 1), np.float32), np.ones(lips_dim, np.float32)))


def untrained_priors(
    network: NetworkConfig, sample_rate: int = 16_000
) -> tuple[SpeechPrior, NoisePrior]:
    """Both priors, with lip features as the shards stage makes them.

    Raises DavssError for a network that cannot be built.
    """
    if sample_rate < 1:
        raise DavssError(f"--sample-rate {sample_rate}: give samples per second, such as 16000")
    info = PriorInfo(sample_rate, network, DiffusionConfig())
    try:
        speech = untrained_prior(info, 2 * ShardsConfig().num_components)
        assert isinstance(speech, SpeechPrior)
        return speech, NoisePrior(info)
    except (ValueError, ZeroDivisionError):  # of GroupNorm, which divides channels into groups
        raise DavssError(
            f"--nf {network.nf}: not divisible into groups of channels; give 8, 16, 32, 64 or 128"
        ) from None


def profile(
    separator: Separator,
    workload: Workload,
    *,
    steps_to_measure: int = 2,
    gpu_tflops: float = ASSUMED_TFLOPS,
    dry_run: bool = False,
    say: timing.Say = lambda line: None,
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
    flops = [counting.pass_flops(prior, windows.length) for prior in (speech, noise)]
    evaluations = counting.count_evaluations(separator, workload.num_speakers, len(windows))
    work = evaluations.flops(*flops)
    counted = {
        "workload": asdict(workload),
        "sampler": to_dict(separator.sampler),
        "execution": to_dict(separator.execution),
        "noise_model": noise if isinstance(noise, str) else "prior",
        "sample_rate": separator.sample_rate,
        "dtype": _name(separator.dtype),
        "windows": len(windows),
        "window_seconds": windows.length / separator.sample_rate,
        "speech_parameters": counting.num_parameters(speech),
        "noise_parameters": counting.num_parameters(noise),
        "evaluations": asdict(evaluations),
        "speech_pass": asdict(flops[0]),
        "noise_pass": asdict(flops[1]),
        "mixture_flops": work,
        "gpu_tflops": gpu_tflops,
        "gpu_hours": workload.num_mixtures * work / (gpu_tflops * 1e12) / 3600,
    }
    if dry_run:
        return counted | {"timing": None}
    step_flops = counting.count_evaluations(separator, workload.num_speakers, one_step=True)
    of_batch = workload.batch_size * step_flops.flops(*flops)
    return counted | {"timing": _timed(separator, workload, of_batch, work, steps_to_measure, say)}


def _timed(
    separator: Separator,
    workload: Workload,
    step_flops: int,
    mixture_flops: int,
    steps_to_measure: int,
    say: timing.Say,
) -> dict[str, Any]:
    """What was measured on the device, and what follows from it; rates in GFLOP/s."""
    device, dtype = separator.device, separator.dtype
    length, batch = _plan(separator, workload).length, workload.batch_size
    before = 0 if device.type == "cuda" else timing.peak_memory(device)
    mixtures = timing.make_noise(separator, batch, workload.num_speakers, length)
    per_step = timing.time_steps(separator, *mixtures, steps_to_measure, say)
    memory = timing.peak_memory(device) - before
    say("measuring the machine's best convolution …")
    branches = counting.plan_speech(separator.sampler, workload.num_speakers)
    maps = counting.feature_maps(separator.speech_prior, length)
    conv = timing.conv_peak(*maps, device, batch * (branches.lips + branches.null), dtype)
    # by work, as not every step costs the same: the last one of a draw takes no gradient
    per_mixture = per_step * mixture_flops / step_flops
    return {
        "device": timing.device_name(device),
        "steps_measured": steps_to_measure,
        "seconds_per_step": per_step,  # of a whole batch, the best of those measured
        "achieved_gflops": step_flops / per_step / 1e9,
        "conv_gflops": conv,
        "memory_bytes": memory,
        "seconds_per_mixture": per_mixture,
        "real_time_factor": per_mixture / workload.seconds,
        "hours": workload.num_mixtures * per_mixture / 3600,
    }


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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def describe(result: dict[str, Any]) -> str:
    """A profile as aligned lines of text."""
    rows = [*_count_rows(result), *_timing_rows(result)]
    mixtures, hours = result["workload"]["num_mixtures"], brief(result["gpu_hours"])
    forecast = f"{hours} hours if it {assumed(result['gpu_tflops'])}"
    rows.append((f"{mixtures} on a GPU", forecast))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _count_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    work, sampler, windows = result["workload"], result["sampler"], ""
    passes = counting.Evaluations(**result["evaluations"])
    if result["windows"] > 1:
        windows = f"{result['windows']} windows of {result['window_seconds']:.3g} s, "

    def prior(kind: str) -> str:
        forward = si(result[f"{kind}_pass"]["forward"], "FLOP")
        parameters = si(result[f"{kind}_parameters"], "")
        return f"{parameters} parameters, {forward} a forward of one signal"

    without = f"{result['noise_model']}, no network"
    return [
        (
            "mixture",
            f"{work['num_speakers']} speaker(s) and noise, {work['seconds']:g} s at "
            f"{result['sample_rate']} Hz, {windows}in batches of {work['batch_size']}",
        ),
        (
            "sampler",
            f"{sampler['name']}, {sampler['num_steps']} steps, guidance "
            f"{sampler['guidance_weight']:g}, {sampler['num_samples']} draw(s)",
        ),
        ("speech prior", prior("speech")),
        ("noise prior", prior("noise") if result["noise_model"] == "prior" else without),
        (
            "forwards",
            f"{passes.forwards} of single signals a mixture: speech {passes.speech_forwards}, "
            f"noise {passes.noise_forwards}",
        ),
        (
            "backwards",
            f"{passes.backwards}: speech {passes.speech_backwards}, noise {passes.noise_backwards}",
        ),
        ("work", f"{si(result['mixture_flops'], 'FLOP')} a mixture, two a multiply-add"),
        ("not counted", counting.NOT_COUNTED),
    ]


def _timing_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    timed = result["timing"]
    if timed is None:
        return [("device", "not timed (dry run)")]
    achieved, peak = timed["achieved_gflops"] * 1e9, timed["conv_gflops"] * 1e9
    step, mixture = brief(timed["seconds_per_step"]), brief(timed["seconds_per_mixture"])
    compiled = ", compiled" if result["execution"]["compile"] else ""
    return [
        ("device", f"{timed['device']}, {result['dtype']}{compiled}"),
        ("step", f"{step} s a batch, best of {timed['steps_measured']} after a warm-up"),
        (
            "achieved",
            f"{si(achieved, 'FLOP/s')}, {achieved / peak:.0%} of the best 3×3 convolution's "
            f"{si(peak, 'FLOP/s')}",
        ),
        ("memory", f"{si(timed['memory_bytes'], 'B')} at the peak, on CPUs without weights"),
        ("one mixture", f"{mixture} s, real-time factor {brief(timed['real_time_factor'])}"),
        (f"{result['workload']['num_mixtures']} mixtures", f"{brief(timed['hours'])} hours here"),
    ]


def si(value: float, unit: str) -> str:
    """A quantity with its decimal prefix: 1.25e12 FLOP → 1.25 TFLOP."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    power = min(max(math.floor(math.log10(value) / 3), 0), 6) if value > 0 else 0
    return f"{brief(value / 1000**power)} {prefixes[power]}{unit}"


def brief(value: float) -> str:
    """A number to three digits, without an exponent where it is large."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"
