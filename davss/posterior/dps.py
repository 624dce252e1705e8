"""Algorithm 1 of DAVSS-NM (arXiv 2509.14379): coupled reverse ODEs, steered by the reconstruction
likelihood.

Each source follows the probability-flow ODE of its own prior; all are pulled by the gradient of
one likelihood of their sum.
Because the mixture sees the sources through their sum only, its gradient v is taken once and every
source receives its vector–Jacobian product: one forward and one backward per denoiser call.

Shapes: B batch · M sources · T samples.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from davss.config import SamplerConfig
from davss.posterior.likelihood import value_and_gradient
from davss.posterior.steps import (
    Callback,
    Denoise,
    Watch,
    at_level,
    churn,
    noise_levels,
    start,
    without_gradient,
)


def dps(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: SamplerConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """One draw of the sources, (B, M, T); see `davss.posterior.sample`.

    `order` 1 is Euler; 2 is Heun, or with `multistep` DPM-Solver++(2M, arXiv 2211.01095) for the
    prior's part, whose second order costs no call.
    """
    watch = Watch(mixture, config.compression, callback)

    def slope(u: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """û, ℓ, and the likelihood's part of d = du/dσ."""
        denoised, likelihood, gradient = estimate(
            denoise, u, sigma, watch.target, config.compression
        )
        zeta = config.zeta_late if sigma < config.sigma_data else config.zeta
        step_scale = (config.zeta if zeta is None else zeta) * mixture.shape[-1] ** 0.5
        return denoised, likelihood, step_scale * gradient / (row_norm(gradient) + 1e-8)

    u = start(mixture, num_sources, config, generators)
    previous: tuple[float, Tensor] | None = None
    for level in noise_levels(config):
        u, sigma = churn(u, level, config.s_noise, generators), level.sigma_hat
        if level.is_last:  # û is the result: there is no move left to steer
            denoised = without_gradient(denoise, u, sigma)
            still = torch.zeros_like(u)
            watch(level, u, denoised, still, still)
            return denoised
        denoised, likelihood, pull = slope(u, sigma)
        dt = level.sigma_next - sigma
        ahead = denoised
        if config.multistep and previous is not None:
            ahead = extrapolate(denoised, sigma, *previous, level.sigma_next)
        move, push = dt * (u - ahead) / sigma, dt * pull
        watch(level, u, denoised, move, push, likelihood)
        if config.order == 2 and not config.multistep:
            there = u + move + push
            second, _, pull_there = slope(there, level.sigma_next)
            move = (move + dt * (there - second) / level.sigma_next) / 2
            push = (push + dt * pull_there) / 2
        u = u + move + push
        previous = sigma, denoised
    raise AssertionError("the last noise level is zero")


def estimate(
    denoise: Denoise, u: Tensor, sigma: float, target: Tensor, compression: float
) -> tuple[Tensor, Tensor, Tensor]:
    """û (B, M, T), ℓ (B,) and ∂ℓ/∂u (B, M, T) by one forward and one backward through the
    denoiser.
    """
    u = u.detach().requires_grad_(True)
    with torch.enable_grad():
        denoised = denoise(u, at_level(u, sigma))
    likelihood, v = value_and_gradient(target, denoised.detach().sum(dim=1), compression)
    (gradient,) = torch.autograd.grad(denoised, u, v[:, None].expand_as(denoised))
    return denoised.detach(), likelihood, gradient


def extrapolate(
    denoised: Tensor, sigma: float, sigma_before: float, before: Tensor, sigma_next: float
) -> Tensor:
    """û at the middle of the step ahead, in log σ, from û here and one step before."""
    half = 0.5 * math.log(sigma / sigma_next) / math.log(sigma_before / sigma)
    return denoised + half * (denoised - before)


def row_norm(x: Tensor) -> Tensor:
    """Euclidean norm per item and source, (B, M, 1); row by row, so that it does not depend on the
    batch to the last bit.
    """
    rows = [torch.linalg.vector_norm(row) for row in x.flatten(0, 1)]
    return torch.stack(rows).view(*x.shape[:2], 1)
