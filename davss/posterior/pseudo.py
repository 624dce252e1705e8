"""The mixture's residual in place of the likelihood's gradient (ParaDiffUSE, arXiv 2601.09931).

What the other sources leave of the mixture is a noisy observation of source j. No gradient goes
through a network.

Shapes: B batch · M sources · T samples. Numbers in brackets are equations of docs/method.md §5.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from davss.config import PseudoConfig
from davss.posterior.shares import white_error
from davss.posterior.steps import (
    Callback,
    Denoise,
    Watch,
    churn,
    levels,
    share_out,
    start,
    without_gradient,
)


def pseudo(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: PseudoConfig,
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
    for level in levels(config):
        u, sigma = churn(u, level, generators), level.sigma_hat
        denoised = without_gradient(denoise, u, sigma)
        missing = (mixture - denoised.sum(dim=1))[:, None] + denoised - u
        pull = -sigma * missing / (sigma**2 + (num_sources - 1) * white_error(sigma))  # (22)
        dt = 0.0 if level.is_last else level.sigma_next - sigma
        move, push = dt * (u - denoised) / sigma, dt * pull
        watch(level, u, denoised, move, push)
        if level.is_last:
            return share_out(denoised, mixture) if config.consistency else denoised
        u = u + move + push
    raise AssertionError("the last noise level is zero")
