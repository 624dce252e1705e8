"""Power-function averages against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from davss.errors import DavssError
from davss.training.power_ema import PowerEma, find_snapshots, gamma_of, reconstruct

STEPS = 600


def walk() -> np.ndarray:
    """Weights as they come in training: a drift and a random walk, (STEPS, 3)."""
    rng = np.random.default_rng(0)
    drift = np.log1p(np.arange(STEPS))[:, None] * np.array([1.0, -0.5, 0.2])
    return drift + 0.05 * rng.standard_normal((STEPS, 3)).cumsum(0)


def average(values: np.ndarray, sigma_rel: float) -> np.ndarray:
    """Σ ∫_{τ−1}^{τ} p(s) ds θ(τ): the average whose profile is (γ + 1) s^γ / t^(γ+1)."""
    edges = np.arange(len(values) + 1) / len(values)
    shares = np.diff(edges ** (gamma_of(sigma_rel) + 1))
    return shares @ values


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.2])
def test_the_profile_has_the_length(sigma_rel):
    s = (np.arange(200_000) + 0.5) / 200_000
    gamma = gamma_of(sigma_rel)
    p = (gamma + 1) * s**gamma
    mean = (p * s).mean()
    assert np.sqrt((p * (s - mean) ** 2).mean()) == pytest.approx(sigma_rel, rel=1e-3)


def trained(tmp_path) -> PowerEma:
    module = nn.Linear(3, 1, bias=False)
    ema = PowerEma(module, (0.05, 0.10))
    for number, value in enumerate(walk(), 1):
        module.weight.data = torch.tensor(value[None], dtype=torch.float32)
        ema.update(module)
        if number % 75 == 0:
            ema.save_snapshots(tmp_path)
    return ema


def test_tracks_follow_the_definition(tmp_path):
    ema = trained(tmp_path)
    for sigma_rel, module in ema.modules.items():
        found = module.weight.numpy()[0]
        np.testing.assert_allclose(found, average(walk(), sigma_rel), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.07, 0.10, 0.13])
def test_any_length_afterwards(tmp_path, sigma_rel):
    trained(tmp_path)
    found = reconstruct(find_snapshots(tmp_path), sigma_rel)["weight"].numpy()[0]
    expected = average(walk(), sigma_rel)
    nearest = min(np.abs(average(walk(), other) - expected).max() for other in (0.04, 0.16))
    assert np.abs(found - expected).max() < 0.01 * np.ptp(walk())
    assert np.abs(found - expected).max() < 0.2 * nearest


def test_goes_on_from_its_state(tmp_path):
    ema, module = PowerEma(nn.Linear(3, 1), (0.1,)), nn.Linear(3, 1)
    ema.update(module)
    other = PowerEma(nn.Linear(3, 1), (0.1,))
    other.load_state_dict(ema.state_dict())
    for each in (ema, other):
        each.update(module)
    assert torch.equal(ema.modules[0.1].weight, other.modules[0.1].weight)


def test_lengths_that_are_none(tmp_path):
    with pytest.raises(DavssError, match="below 0.288"):
        gamma_of(0.3)
    with pytest.raises(DavssError, match="ema_sigma_rels"):
        reconstruct(find_snapshots(tmp_path), 0.1)
