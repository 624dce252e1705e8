"""Decoupled annealing posterior sampling (DAPS, arXiv 2407.01521) of sources given their sum, in
closed form.

At every level the sources given the state are taken for Gaussian around û_j, with the variance of
`davss.posterior.shares`; conditioned on their sum being y, by Matheron's rule; and noised again to
the next level. No gradient goes through a network.
Not to be confused with DPS, which moves along an ODE.

Shapes: B batch · M sources · T samples. Numbers in brackets are equations of docs/method.md §5.1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from davss.config import DapsConfig
from davss.posterior.shares import SHARES, color, split
from davss.posterior.steps import (
    Callback,
    Denoise,
    Watch,
    churn,
    levels,
    standard_normal,
    start,
    without_gradient,
)


def daps(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: DapsConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """One draw of the sources, (B, M, T); see `davss.posterior.sample`.

    `inner_noise` 1 draws from the conditional Gaussian, 0 takes its mean, which seeks the posterior
    mean instead of a sample.
    """
    watch = Watch(mixture, config.compression, callback)
    u = start(mixture, num_sources, config, generators)
    for level in levels(config):
        u, sigma = churn(u, level, generators), level.sigma_hat
        denoised = without_gradient(denoise, u, sigma)
        variance = SHARES[config.shares](denoise, mixture, u, denoised, sigma)
        guess = denoised
        if config.inner_noise > 0:
            white = standard_normal(mixture, num_sources, generators)
            guess = guess + config.inner_noise * color(white, variance)
        sources = guess + split(mixture - guess.sum(dim=1), variance, num_sources)  # (18)
        watch(level, u, denoised, denoised - u, sources - guess)
        if level.is_last:
            return sources
        fresh = standard_normal(mixture, num_sources, generators)
        u = sources + level.sigma_next * fresh  # (19)
    raise AssertionError("the last noise level is zero")
