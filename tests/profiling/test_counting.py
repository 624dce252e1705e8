"""Counts of work against hand computations and real runs."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from davss.config import NetworkConfig, SamplerConfig, SeparationConfig
from davss.networks.layers import AttentionBlock, PointwiseLinear, ResnetBlock, upsample
from davss.posterior.separator import Separator
from davss.profiling import Workload, conv_peak, profile, time_steps
from davss.profiling.counting import count_passes, map_size, pass_flops, untrained_priors
from tests.priors import make_noise_prior, make_speech_prior

DPS = SamplerConfig(num_steps=3)
DAPS = SamplerConfig(name="daps", num_steps=3, num_samples=2)


def test_ncsnpp_m_takes_1_12_tflop_for_four_seconds():
    """1.25 if convolutions behind an up-sampling were computed as they are written."""
    with torch.device("meta"):
        speech, noise = untrained_priors(NetworkConfig())
    assert sum(p.numel() for p in noise.network.parameters()) == 27_736_590
    forward, backward = pass_flops(noise, 64_000)
    assert forward == pytest.approx(1.12e12, rel=0.005)
    assert backward == pytest.approx(forward, rel=0.01)  # to the input only
    assert pass_flops(speech, 64_000) == (forward, backward)  # FiLM is computed once for all steps


@pytest.mark.parametrize("make", [make_speech_prior, make_noise_prior])
def test_flops_are_those_of_every_layer_counted_by_hand(make):
    prior, by_hand = make(), []

    def count(layer, inputs, output):
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            kernel = torch.Size(layer.kernel_size).numel()
            by_hand.append(2 * output.numel() * layer.in_channels * kernel)
        elif isinstance(layer, nn.Linear):
            by_hand.append(2 * output.numel() * layer.in_features)
        elif isinstance(layer, PointwiseLinear):
            by_hand.append(2 * output.numel() * len(layer.W))
        elif isinstance(layer, AttentionBlock):
            channels, positions = output.shape[1], output.shape[2] * output.shape[3]
            by_hand.append(2 * 2 * positions**2 * channels)
        elif isinstance(layer, ResnetBlock) and layer.resample is upsample:
            # its first convolution, not called as a module: 4×4 taps on the grid before
            by_hand.append(
                2 * inputs[0][:, 0].numel() * layer.Conv_0.weight[..., 0, 0].numel() * 16
            )

    with torch.no_grad():
        modulations = prior.condition(None, 4000)
        for layer in prior.modules():
            layer.register_forward_hook(count)
        prior(torch.randn(1, 4000), torch.tensor([0.1]), modulations)
    assert pass_flops(prior, 4000)[0] == sum(by_hand)


@pytest.mark.parametrize(
    ("num_speakers", "weight", "forwards"),
    [(1, 0.0, 2), (1, 0.5, 3), (2, 0.0, 3), (2, 0.5, 5), (3, 0.0, 4), (3, 0.5, 7)],
)
def test_evaluations_of_the_papers_sampler(priors, num_speakers, weight, forwards):
    separator = Separator(*priors, SamplerConfig(guidance_weight=weight), "cpu")
    counted = count_passes(separator, num_speakers)
    assert counted.speech_forwards == 400 * (forwards - 1) and counted.noise_forwards == 400
    assert counted.speech_backwards == 399 * (forwards - 1)  # the last step takes no gradient


@pytest.mark.parametrize(
    "sampler",
    [
        DPS,
        SamplerConfig(num_steps=3, guidance_weight=0.0),
        SamplerConfig(num_steps=3, order=2),
        SamplerConfig(num_steps=2, num_samples=2),
        DAPS,
        SamplerConfig(name="pseudo", num_steps=2),
    ],
)
def test_evaluations_are_those_of_a_real_separation(sampler):
    check_against_real(sampler, make_noise_prior())


@pytest.mark.parametrize("noise", ["nmf", "gaussian", "none"])
@pytest.mark.parametrize("sampler", [DPS, DAPS], ids=["dps", "daps"])
def test_noise_models_without_a_network_take_none(sampler, noise):
    check_against_real(sampler, noise)
    assert pass_flops(noise, 4000) == (0, 0)


def check_against_real(sampler, noise):
    speech = make_speech_prior()
    separator = Separator(speech, noise, sampler, "cpu")
    seen = {(name, grad): 0 for name in ("speech", "noise") for grad in (False, True)}
    networks = {"speech": separator.speech_prior, "noise": separator.noise_prior}
    for name, prior in networks.items():
        if isinstance(prior, str):
            continue

        def count(_, inputs, output, name=name):
            seen[name, output.requires_grad] += len(output)

        prior.network.register_forward_hook(count)
    result = separator(torch.randn(1, 1000), torch.randn(1, 2, 3, 6), sample_rate=8000)
    assert result.errors == [None] and result.trace["retries"][0] == 0  # or there are more calls
    counted = count_passes(separator, 2)
    assert counted.speech_forwards == seen["speech", False] + seen["speech", True]
    assert counted.noise_forwards == seen["noise", False] + seen["noise", True]
    assert counted.speech_backwards == seen["speech", True]
    assert counted.noise_backwards == seen["noise", True]


@pytest.mark.parametrize(
    ("sampler", "checkpointing"), [(DPS, True), (DAPS, False)], ids=["dps", "daps"]
)
def test_work_is_that_of_a_real_separation(priors, sampler, checkpointing):
    """Two windows, whose lips are the only work that is not the U-Net's."""
    execution = SeparationConfig(checkpointing=checkpointing)
    sampler = replace(sampler, window_seconds=0.16, overlap_seconds=0.04)
    workload = Workload(num_speakers=2, seconds=0.24)
    separator, film = Separator(*priors, sampler, "cpu", execution), []
    counted = profile(separator, workload, dry_run=True)
    assert counted["windows"] == 2
    counter = Flops()
    of_lips = separator.speech_prior.network.film  # a copy of the prior's
    of_lips.register_forward_pre_hook(lambda *_: film.append(-counter.total))
    of_lips.register_forward_hook(lambda *_: film.append(counter.total))
    with sdpa_kernel(SDPBackend.MATH), counter:  # flash attention computes its forward twice
        result = separator(torch.randn(1, 1920), torch.randn(1, 2, 6, 6), sample_rate=8000)
    assert result.errors == [None] and result.trace["retries"][0] == 0
    assert counter.total - sum(film) == counted["mixture_flops"]


class Flops(TorchDispatchMode):
    """Counts every operation; torch's own counter cannot follow through branches without gradient
    and checkpoints.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            count = flop_registry[func._overloadpacket]
            self.total += count(*args, **(kwargs or {}), out_val=output)
        return output


def test_the_map_is_that_of_the_network(priors):
    # 4000 samples: 126 frames, padded to 128
    assert map_size(priors[0].network, 4000) == (32, 128)


def test_only_the_steps_asked_for_are_run_and_all_mixtures_together(priors):
    separator = Separator(*priors, SamplerConfig(), "cpu", SeparationConfig(batch_size=6))
    said, signals = [], []
    hook = separator.noise_prior.network.register_forward_hook(
        lambda m, i, output: signals.append(len(output))
    )
    assert time_steps(separator, 6, 1, 1000, 3, said.append) > 0
    hook.remove()
    assert [line.split(":")[0] for line in said] == [f"step {k} of 3" for k in "123"]
    assert signals == [6] * 4


def test_time_of_a_long_mixture_is_that_of_its_windows(priors):
    sampler = SamplerConfig(
        name="daps", num_steps=4, window_seconds=0.16, overlap_seconds=0.04, guidance_weight=0.0
    )
    workload = Workload(num_speakers=1, seconds=0.6, num_mixtures=7200)
    result = profile(Separator(*priors, sampler, "cpu"), workload, steps_to_measure=1)
    timed = result["timing"]
    assert result["windows"] == 5 and result["window_seconds"] == pytest.approx(0.16)
    assert timed["seconds_per_mixture"] == pytest.approx(5 * 4 * timed["seconds_per_step"])
    assert timed["hours"] == pytest.approx(2 * timed["seconds_per_mixture"])
    assert timed["real_time_factor"] == pytest.approx(timed["seconds_per_mixture"] / 0.6)


def test_the_peak_is_a_rate(priors):
    assert 0.01 < conv_peak(Separator(*priors, device="cpu"), 1000, batch_size=2) < 1e5
