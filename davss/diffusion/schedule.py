"""Noise levels: the ρ-warped grid of EDM (Karras et al., arXiv 2206.00364, eq. 5), for sampling
and for training.
"""

import torch
from torch import Tensor

VALIDATION_SIGMAS = (0.001, 0.004, 0.016, 0.063, 0.25, 1.0)  # where priors are measured


def warp(fraction: Tensor, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Map fractions in [0, 1] to noise levels from sigma_max (at 0) down to sigma_min (at 1),
    linear in σ^(1/ρ).
    """
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (high + fraction * (low - high)) ** rho


def sigma_schedule(num_steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Decreasing noise levels σ_0 … σ_{N−1} of a sampler, (N,) float64; the final σ_N = 0 is not
    among them.
    """
    fraction = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    return warp(fraction, sigma_min, sigma_max, rho)
