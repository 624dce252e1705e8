"""Every tensor stays on the GPU, checked without one: networks made in `torch.device("cuda")` under
FakeTensorMode compute shapes, types and devices, and refuse tensors of two devices together.

What looks at values is computed outside the mode (schedules). Autograd asks a real GPU for its
context: backward passes are for tests/gpu.
"""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses import FakeTensorMode

from davss.config import DiffusionConfig, SamplerConfig, SeparationConfig
from davss.diffusion.loss import training_loss
from davss.networks import BRAVEn
from davss.posterior import daps, dps, likelihood, pseudo, sample, steps
from davss.posterior.noise_models import GaussianNoise, NmfNoise
from davss.posterior.separator import Separator
from davss.posterior.trace import Trace
from tests.priors import make_noise_prior, make_speech_prior

BATCH, LENGTH = 2, 1600
FLOAT32 = SeparationConfig(precision="float32")  # autocast looks for the GPU
SAMPLERS = {
    "dps": SamplerConfig(num_steps=2, s_churn=1.0, consistency=True),
    "daps": SamplerConfig(name="daps", num_steps=2, s_churn=1.0),
    "daps-measured": SamplerConfig(name="daps", num_steps=2, shares="measured", inner_noise=0.5),
    "daps-offer": SamplerConfig(name="daps", num_steps=2, shares="offer"),
    "pseudo": SamplerConfig(name="pseudo", num_steps=2, consistency=True),
}


@contextmanager
def fake_gpu(monkeypatch):
    """New tensors are fake, those of modules on a GPU that there need not be."""
    # fake parameters can be neither copied nor moved, and are where they should be
    monkeypatch.setattr(copy, "deepcopy", lambda original: original)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *arguments, **keywords: self)
    with FakeTensorMode(), torch.device("cuda"):
        yield


def on_gpu(*tensors):
    return all(tensor.device.type == "cuda" for tensor in tensors)


@pytest.mark.parametrize("noise", ["prior", "nmf", "gaussian", "none"])
def test_denoisers_of_a_separator(monkeypatch, noise):
    with fake_gpu(monkeypatch):
        model = make_noise_prior() if noise == "prior" else noise
        separator = Separator(make_speech_prior(), model, execution=FLOAT32, device="cuda")
        mixture, lips = torch.randn(BATCH, LENGTH), torch.randn(BATCH, 1, 5, 6)
        seeded = [torch.Generator("cpu") for _ in range(BATCH)]
        denoise = next(separator.denoisers(mixture, lips, 2, seeded))
        num_sources = 2 + (noise != "none")
        with torch.no_grad():
            found = denoise(torch.randn(BATCH, num_sources, LENGTH), torch.full((BATCH,), 0.1))
    assert on_gpu(found) and found.dtype == torch.float32
    assert found.shape == (BATCH, num_sources, LENGTH)
    assert on_gpu(*separator.speech_prior.parameters(), *separator.speech_prior.buffers())


@pytest.mark.parametrize("config", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_samplers(monkeypatch, config):
    planned = list(steps.levels(config))
    for module in (dps, daps, pseudo):
        monkeypatch.setattr(module, "levels", lambda config: planned)
    monkeypatch.setattr(dps, "value_and_gradient", likelihood_without_gradient)
    monkeypatch.setattr(torch.autograd, "grad", lambda outputs, inputs, v: (v + 0 * inputs,))
    seen = []

    def denoise(u, sigma):
        seen.extend((u, sigma))
        return 0.5 * u + 0 * sigma[:, None, None]

    def callback(step):
        seen.extend((step.u, step.denoised, step.likelihood, step.prior_step, step.likelihood_step))

    with fake_gpu(monkeypatch):
        mixture = torch.randn(BATCH, LENGTH)
        seeded = [torch.Generator("cpu") for _ in range(BATCH)]
        trace = Trace(2, mixture.abs().amax(dim=1), callback)
        found = sample(denoise, mixture, 3, config, seeded, trace)
    assert len(planned) == 2 and on_gpu(found, *seen, *trace.sane, *trace.steps[0])
    assert all(tensor.dtype == torch.float32 for tensor in seen)


def likelihood_without_gradient(target, estimate, compression):
    """ℓ and, in the place of its gradient, something of its shape."""
    value = likelihood.compressed_distance(target, estimate, compression)
    return value, torch.zeros_like(estimate)


def test_training_loss(monkeypatch):
    with fake_gpu(monkeypatch), torch.no_grad():
        prior = make_speech_prior()
        clean, lips = torch.randn(BATCH, LENGTH), torch.randn(BATCH, 5, 6)
        has_lips = torch.ones(BATCH, dtype=torch.bool)
        noise, uniforms = torch.randn(BATCH, LENGTH), torch.rand(BATCH, 3, dtype=torch.float64)
        found = training_loss(prior, clean, lips, has_lips, DiffusionConfig(), noise, uniforms)
    assert on_gpu(found) and found.dtype == torch.float32


@pytest.mark.parametrize("model", [NmfNoise, GaussianNoise])
def test_noise_models(monkeypatch, model):
    with fake_gpu(monkeypatch):
        mixture, sigma = torch.randn(BATCH, LENGTH), torch.full((BATCH,), 0.1)
        noise = model(mixture, 8000, [torch.Generator("cpu") for _ in range(BATCH)])
        found = noise(torch.randn(BATCH, LENGTH), sigma, mixture)
        assert on_gpu(found, noise.variance) and found.dtype == torch.float32


def test_braven(monkeypatch):
    with fake_gpu(monkeypatch):
        network = BRAVEn(attention_dim=16, attention_heads=2, linear_units=32, num_blocks=2)
        layer = network.encoders[0]
        valid = torch.ones(BATCH, 5, dtype=torch.bool)
        found = layer(torch.randn(BATCH, 5, 16), torch.randn(9, 16), valid)
    assert on_gpu(found, *network.parameters(), *network.buffers())
