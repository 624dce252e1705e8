"""Times of real steps, and the machine's peaks."""

import pytest
import torch

from davss.config import SamplerConfig, SeparationConfig
from davss.posterior.separator import Separator
from davss.profiling import Workload, conv_peak, matmul_peak, profile
from davss.profiling.text import brief, si
from davss.profiling.timing import compute_dtype, time_steps


def test_time_of_a_mixture_follows_from_that_of_a_step(priors):
    workload = Workload(num_speakers=1, seconds=0.125, batch_size=2, num_mixtures=7200)
    sampler = SamplerConfig(num_steps=40, order=2, num_samples=3)
    result = profile(*priors, sampler, workload, device="cpu", steps_to_measure=1)
    timing = result.timing
    # 3 draws of 40 steps for 2 mixtures, the last of each draw a fraction of a step
    assert timing.seconds_per_mixture == pytest.approx(60 * timing.seconds_per_step, rel=0.05)
    assert timing.real_time_factor == pytest.approx(8 * timing.seconds_per_mixture)
    assert timing.hours == pytest.approx(2 * timing.seconds_per_mixture)
    assert timing.fraction_of_conv == pytest.approx(timing.achieved_gflops / timing.conv_gflops)
    assert timing.matmul_gflops.keys() == {"float32"} and timing.memory_bytes >= 0


def test_only_the_steps_asked_for_are_run_and_all_mixtures_together(priors):
    separator = Separator(*priors, SamplerConfig(), "cpu", SeparationConfig(batch_size=6))
    said, signals = [], []
    hook = priors[1].network.register_forward_hook(lambda m, i, output: signals.append(len(output)))
    workload = Workload(num_speakers=1, seconds=0.125, batch_size=6)
    assert time_steps(separator, workload, 3, said.append) > 0
    hook.remove()
    assert [line.split(":")[0] for line in said] == ["warm-up", *(f"step {k} of 3" for k in "123")]
    assert signals == [6] * 4


def test_a_long_mixture_is_timed_by_its_windows(priors):
    sampler = SamplerConfig(
        name="daps", num_steps=4, window_seconds=0.16, overlap_seconds=0.04, guidance_weight=0.0
    )
    workload = Workload(num_speakers=1, seconds=0.6, num_mixtures=1)
    result = profile(*priors, sampler, workload, device="cpu", steps_to_measure=1)
    assert result.windows == 5 and result.window_seconds == pytest.approx(0.16)
    assert result.timing.seconds_per_mixture == pytest.approx(
        5 * 4 * result.timing.seconds_per_step
    )


def test_networks_compute_in_the_type_asked_for(priors):
    def dtype(precision):
        execution = SeparationConfig(precision=precision)
        return compute_dtype(Separator(*priors, device="cpu", execution=execution))

    assert dtype("auto") == dtype("float32") == torch.float32
    assert dtype("bfloat16") == torch.bfloat16


def test_peaks_are_rates():
    assert 0.01 < matmul_peak("cpu", size=256) < 1e5
    assert 0.01 < conv_peak([8, 16], [(32, 32), (16, 16)], "cpu", batch_size=2) < 1e5


def test_quantities_read_well():
    assert si(1.25e12, "FLOP") == "1.25 TFLOP"
    assert si(27_736_590, "") == "27.7 M"
    assert si(0, "B") == "0.00 B"
    assert brief(1234.5) == "1234"
