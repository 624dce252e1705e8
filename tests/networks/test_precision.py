"""Which type networks compute in, and that autocast surrounds nothing else."""

import pytest
import torch

from davss import Separator
from davss.config import SamplerConfig, SeparationConfig
from davss.networks.layers import ResnetBlock
from davss.networks.precision import resolve
from davss.posterior import noise_models
from tests.priors import make_noise_prior, make_speech_prior


@pytest.mark.parametrize(("has_it", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_asks_the_card(monkeypatch, has_it, expected):
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())

    def supported(including_emulation=True):
        asked.append(including_emulation)
        return has_it

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve("auto", torch.device("cuda:1")) == expected and asked == [False]
    assert resolve("auto", torch.device("cpu")) == torch.float32
    assert resolve("bfloat16", torch.device("cpu")) == torch.bfloat16


def make_separator(noise, sampler):
    execution = SeparationConfig(precision="bfloat16")
    return Separator(make_speech_prior(), noise, sampler, "cpu", execution)


@pytest.mark.parametrize("noise", ["nmf", "gaussian"])
def test_noise_models_and_stfts_stay_float32(monkeypatch, noise):
    seen = set()
    original, products = noise_models.wiener, noise_models.multiplicative_update

    def wiener(u, sigma, variance, n_fft):
        seen.update((u.dtype, variance.dtype, torch.is_autocast_enabled("cpu")))
        return original(u, sigma, variance, n_fft)

    def update(power, w, h):
        seen.update((w.dtype, (w @ h).dtype))
        return products(power, w, h)

    monkeypatch.setattr(noise_models, "wiener", wiener)
    monkeypatch.setattr(noise_models, "multiplicative_update", update)
    separator = make_separator(noise, SamplerConfig(num_steps=2))
    network, stft = separator.speech_prior.network, separator.speech_prior.network.stft
    monkeypatch.setattr(network, "stft", lambda x: seen.add(stft(x).dtype) or stft(x))
    separator(0.1 * torch.randn(1, 1000), num_speakers=2, sample_rate=8000)
    assert seen == {torch.float32, False}


def test_feature_maps_are_not_promoted_by_the_lips():
    separator, seen = make_separator(make_noise_prior(), SamplerConfig(num_steps=2)), set()
    for layer in separator.speech_prior.network.all_modules[4:]:  # behind the first convolution
        if isinstance(layer, ResnetBlock):
            layer.register_forward_pre_hook(lambda module, inputs: seen.add(inputs[0].dtype))
    separator(0.1 * torch.randn(1, 1000), torch.randn(1, 1, 3, 6), sample_rate=8000)
    assert seen == {torch.bfloat16}
