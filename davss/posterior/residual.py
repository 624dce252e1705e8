"""Samplers that replace the likelihood's gradient by the mixture's residual; none goes back through
a network.

`pseudo` (ParaDiffUSE, arXiv 2601.09931): what the other sources leave of the mixture is a noisy
observation of source j. `dirac` (multi-source diffusion models, arXiv 2302.02257): the last source
*is* the mixture minus the others.

Shapes: B batch · M sources · T samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from davss.config import SamplerConfig
from davss.posterior.steps import (
    Callback,
    Denoise,
    Watch,
    churn,
    noise_levels,
    start,
    without_gradient,
)


def pseudo(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: SamplerConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """One draw of the sources, (B, M, T); see `davss.posterior.sample`.

    Given its state u_j = x_j + σε, the mixture minus the others' estimates is x_j plus their
    errors: y − Σ_{l≠j} û_l − u_j has variance σ² + (M−1) r², with r as in `daps`. That x_j is u_j
    up to σε leaves out its prior, whose score then counts up to twice: draws spread too little,
    less so with churn.
    """
    watch = Watch(mixture, config.compression, callback)
    u = start(mixture, num_sources, config, generators)
    for level in noise_levels(config):
        u, sigma = churn(u, level, config.s_noise, generators), level.sigma_hat
        denoised = without_gradient(denoise, u, sigma)
        variance = sigma**2 * config.sigma_data**2 / (sigma**2 + config.sigma_data**2)
        missing = (mixture - denoised.sum(dim=1))[:, None] + denoised - u
        pull = -sigma * missing / (sigma**2 + (num_sources - 1) * variance)
        dt = 0.0 if level.is_last else level.sigma_next - sigma
        move, push = dt * (u - denoised) / sigma, dt * pull
        watch(level, u, denoised, move, push)
        if level.is_last:
            return denoised
        u = u + move + push
    raise AssertionError("the last noise level is zero")


def dirac(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: SamplerConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """One draw of the sources, (B, M, T); see `davss.posterior.sample`.

    The last source's state is y − Σ of the others at every step, so its score enters theirs with
    a minus sign, and the result adds up to y exactly. Its noise is that of all the others, not of
    level σ, which only churn corrects.
    """
    watch = Watch(mixture, config.compression, callback)
    u = start(mixture, num_sources, config, generators)
    for level in noise_levels(config):
        u, sigma = churn(u, level, config.s_noise, generators), level.sigma_hat
        u = close(u, mixture)
        denoised = without_gradient(denoise, u, sigma)
        slope = (u - denoised) / sigma
        dt = 0.0 if level.is_last else level.sigma_next - sigma
        move, push = dt * slope, -dt * slope[:, -1:].expand_as(slope)
        watch(level, u, denoised, move, push)
        if level.is_last:
            return close(denoised, mixture)
        u = u + move + push
    raise AssertionError("the last noise level is zero")


def close(sources: Tensor, mixture: Tensor) -> Tensor:
    """Sources (B, M, T) whose last is what the others leave of the mixture (B, T)."""
    others = sources[:, :-1]
    return torch.cat([others, (mixture - others.sum(dim=1))[:, None]], dim=1)
