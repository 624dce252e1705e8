"""Algorithm 1 of DAVSS-NM (arXiv 2509.14379): coupled reverse ODEs, steered by the reconstruction
likelihood.

Each source follows the probability-flow ODE of its own prior; all are pulled by the gradient of
one likelihood of their sum.
Because the mixture sees the sources through their sum only, its gradient v is taken once and every
source receives its vector–Jacobian product: one forward and one backward per denoiser call.

Shapes: B batch · M sources · T samples. Numbers in brackets are equations of docs/method.md §4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from davss.config import DpsConfig
from davss.posterior.likelihood import value_and_gradient
from davss.posterior.steps import (
    Callback,
    Denoise,
    Watch,
    at_level,
    churn,
    levels,
    share_out,
    start,
    without_gradient,
)


def dps(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: DpsConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """One draw of the sources, (B, M, T); see `davss.posterior.sample`."""
    watch = Watch(mixture, config.compression, callback)

    def slope(u: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """û, ℓ, and the likelihood's part of d = du/dσ."""
        u = u.detach().requires_grad_(True)
        with torch.enable_grad():
            denoised = denoise(u, at_level(u, sigma))  # (12)
        total = denoised.detach().sum(dim=1)  # (13)
        likelihood, v = value_and_gradient(watch.target, total, config.compression)
        (g,) = torch.autograd.grad(denoised, u, v[:, None].expand_as(denoised))  # (14)
        pull = config.zeta * mixture.shape[-1] ** 0.5 * g / (row_norm(g) + 1e-8)  # (15)
        return denoised.detach(), likelihood, pull

    u = start(mixture, num_sources, config, generators)  # (10)
    for level in levels(config):  # (9)
        u, sigma = churn(u, level, generators), level.sigma_hat  # (11)
        if level.is_last:  # û is the result: there is no move left to steer
            denoised = without_gradient(denoise, u, sigma)
            still = torch.zeros_like(u)
            watch(level, u, denoised, still, still)
            return share_out(denoised, mixture) if config.consistency else denoised
        denoised, likelihood, pull = slope(u, sigma)
        dt = level.sigma_next - sigma
        move, push = dt * (u - denoised) / sigma, dt * pull
        watch(level, u, denoised, move, push, likelihood)
        if config.order == 2:  # Heun: d is the mean of those at both ends of the step
            there = u + move + push
            denoised_there, _, pull_there = slope(there, level.sigma_next)
            move = (move + dt * (there - denoised_there) / level.sigma_next) / 2
            push = (push + dt * pull_there) / 2
        u = u + move + push  # (16)
    raise AssertionError("the last noise level is zero")


def row_norm(x: Tensor) -> Tensor:
    """Euclidean norm per item and source, (B, M, 1); row by row, so that it does not depend on the
    batch to the last bit.
    """
    rows = [torch.linalg.vector_norm(row) for row in x.flatten(0, 1)]
    return torch.stack(rows).view(*x.shape[:2], 1)
