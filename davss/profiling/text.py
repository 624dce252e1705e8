"""A profile in words."""

import math

from davss.config import SamplerConfig
from davss.profiling.counting import NOT_COUNTED
from davss.profiling.forecast import ASSUMED_FRACTION, ASSUMED_TFLOPS, H100_TFLOPS, Profile


def describe(result: Profile) -> str:
    """A profile as aligned lines of text."""
    rows = [*_count_rows(result), *_timing_rows(result), *_gpu_rows(result)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _count_rows(result: Profile) -> list[tuple[str, str]]:
    passes = result.evaluations
    noise = _prior(result.noise_parameters, result.noise_pass.forward)
    if result.noise_model != "prior":
        noise = f"{result.noise_model}, no network"
    return [
        ("mixture", _mixture(result)),
        ("sampler", _sampler(result.sampler)),
        ("speech prior", _prior(result.speech_parameters, result.speech_pass.forward)),
        ("noise prior", noise),
        (
            "forwards",
            f"{passes.forwards} of single signals a mixture: speech {passes.speech_forwards}, "
            f"noise {passes.noise_forwards}",
        ),
        (
            "backwards",
            f"{passes.backwards}: speech {passes.speech_backwards}, noise {passes.noise_backwards}",
        ),
        ("work", f"{si(result.mixture_flops, 'FLOP')} a mixture, two a multiply-add"),
        ("not counted", NOT_COUNTED),
    ]


def _mixture(result: Profile) -> str:
    work, windows = result.workload, ""
    if result.windows > 1:
        windows = f"{result.windows} windows of {result.window_seconds:.3g} s, "
    return (
        f"{work.num_speakers} speaker(s) and noise, {work.seconds:g} s at {result.sample_rate} Hz, "
        f"{windows}in batches of {work.batch_size}"
    )


def _sampler(sampler: SamplerConfig) -> str:
    parts = [f"{sampler.name}, {sampler.num_steps} steps"]
    if sampler.name == "dps":
        multistep = " (multistep)" if sampler.multistep else ""
        parts.append(f"order {sampler.order}{multistep}")
    parts.append(f"guidance {sampler.guidance_weight:g}")
    return ", ".join([*parts, f"{sampler.num_samples} draw(s)"])


def _prior(parameters: int, flops: int) -> str:
    return f"{si(parameters, '')} parameters, {si(flops, 'FLOP')} a forward of one signal"


def _timing_rows(result: Profile) -> list[tuple[str, str]]:
    timing = result.timing
    if timing is None:
        return [("device", "not timed (dry run)")]
    peaks = [(f"{dtype} product", rate) for dtype, rate in timing.matmul_gflops.items()]
    compiled = ", compiled" if result.execution.compile else ""
    return [
        ("device", f"{timing.device}, {result.dtype}{compiled}"),
        (
            "step",
            f"{brief(timing.seconds_per_step)} s a batch, best of {timing.steps_measured} after "
            "a warm-up",
        ),
        (
            "achieved",
            f"{si(timing.achieved_gflops * 1e9, 'FLOP/s')}: {timing.fraction_of_matmul:.0%} of the "
            f"product, {timing.fraction_of_conv:.0%} of the convolution",
        ),
        *((f"peak, {name}", si(rate * 1e9, "FLOP/s")) for name, rate in peaks),
        ("peak, convolution", f"{si(timing.conv_gflops * 1e9, 'FLOP/s')}, the best of its 3×3"),
        ("memory", f"{si(timing.memory_bytes, 'B')}, {timing.memory_kind}"),
        (
            "one mixture",
            f"{brief(timing.seconds_per_mixture)} s, real-time factor "
            f"{brief(timing.real_time_factor)}",
        ),
        (f"{result.workload.num_mixtures} mixtures", f"{brief(timing.hours)} hours here"),
    ]


def _gpu_rows(result: Profile) -> list[tuple[str, str]]:
    source = "by --gpu-tflops"
    if result.gpu_tflops == ASSUMED_TFLOPS:
        source = f"{ASSUMED_FRACTION:.0%} of an H100's {H100_TFLOPS:g} in dense bf16"
    return [
        (
            f"{result.workload.num_mixtures} on a GPU",
            f"{brief(result.gpu_hours)} hours if it sustains {result.gpu_tflops:g} TFLOP/s: "
            f"assumed ({source}), not measured",
        )
    ]


def si(value: float, unit: str) -> str:
    """A quantity with its decimal prefix: 1.25e12 FLOP → 1.25 TFLOP."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    power = min(max(math.floor(math.log10(value) / 3), 0), 6) if value > 0 else 0
    return f"{brief(value / 1000**power)} {prefixes[power]}{unit}"


def brief(value: float) -> str:
    """A number to three digits, without an exponent where it is large."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"
