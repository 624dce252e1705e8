"""The reconstruction likelihood against the public reference implementation."""

from pathlib import Path

import numpy as np
import torch

from davss.diffusion.schedule import sigma_schedule
from davss.posterior.likelihood import reconstruction_loss

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "reconstruction_loss.npz")


def test_value_and_gradient():
    random = np.random.RandomState(2)
    mixture = torch.tensor(0.05 * random.randn(1, 8000))
    estimate = torch.tensor(0.05 * random.randn(1, 8000), requires_grad=True)
    loss = reconstruction_loss(mixture, estimate, compression=2 / 3)
    (gradient,) = torch.autograd.grad(loss.sum(), estimate)
    assert abs(loss.item() / GOLDEN["loss"] - 1) < 1e-8
    scale = np.abs(GOLDEN["grad"]).max()
    assert np.abs(gradient.numpy() - GOLDEN["grad"]).max() < 1e-8 * scale


def test_silence_has_a_finite_gradient():
    estimate = torch.zeros(1, 4000, requires_grad=True)
    loss = reconstruction_loss(torch.randn(1, 4000), estimate)
    (gradient,) = torch.autograd.grad(loss.sum(), estimate)
    assert torch.isfinite(gradient).all()


def test_schedule():
    sigmas = sigma_schedule(10, sigma_min=1e-4, sigma_max=0.5, rho=10)
    np.testing.assert_allclose(sigmas.numpy(), GOLDEN["sigmas"], rtol=1e-12)
