"""Decoupled annealing posterior sampling (DAPS, arXiv 2407.01521) of sources given their sum, in
closed form.

At every level the sources given the state are taken for Gaussian around û_j, with the variance of
`davss.posterior.uncertainty`; conditioned on their sum being y (up to a Gaussian of `sigma_y`), by
Matheron's rule; and noised again to the next level. No gradient goes through a network. With
`likelihood="stft"` the compressed-STFT likelihood of Algorithm 1 takes the place of the exact sum,
by a few gradient steps on the estimates only.
Not to be confused with DPS, which moves along an ODE.

Shapes: B batch · M sources · T samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from davss.config import SamplerConfig
from davss.posterior.likelihood import value_and_gradient
from davss.posterior.steps import (
    Callback,
    Denoise,
    Watch,
    churn,
    draw,
    noise_levels,
    rms,
    start,
    without_gradient,
)
from davss.posterior.uncertainty import Uncertainty, uncertainty


def daps(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: SamplerConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """One draw of the sources, (B, M, T); see `davss.posterior.sample`.

    `inner_noise` 1 draws from the conditional Gaussian, 0 takes its mean, which seeks the posterior
    mean instead of a sample; `eta` is the share of fresh noise in the next state (1: DAPS, 0: the
    noise that the state holds is kept, as in an ODE).
    """
    watch = Watch(mixture, config.compression, callback)
    u = start(mixture, num_sources, config, generators)
    for level in noise_levels(config):
        u, sigma = churn(u, level, config.s_noise, generators), level.sigma_hat
        denoised = denoise_by_ode(denoise, u, sigma, config)
        error = uncertainty(u, denoised, sigma, config)
        guess = denoised
        if config.inner_noise > 0:
            white = draw(mixture, num_sources, generators)
            guess = guess + config.inner_noise * error.color(white)
        if config.likelihood == "sum":
            missing = mixture - guess.sum(dim=1)
            if config.sigma_y > 0:
                missing = missing + config.sigma_y * draw(mixture, 1, generators)[:, 0]
            sources = guess + error.share(missing, config.sigma_y)
        else:
            sources = condition_on_stft(guess, watch.target, mixture, error, config)
        watch(level, u, denoised, denoised - u, sources - guess)
        if level.is_last:
            return sources
        kept = (u - sources) / sigma
        u = sources + level.sigma_next * (1 - config.eta**2) ** 0.5 * kept
        if config.eta > 0:
            u = u + level.sigma_next * config.eta * draw(mixture, num_sources, generators)
    raise AssertionError("the last noise level is zero")


def denoise_by_ode(denoise: Denoise, u: Tensor, sigma: float, config: SamplerConfig) -> Tensor:
    """û (B, M, T): one call, or `ode_steps` Euler steps of the prior's own probability-flow ODE
    from σ to 0, equal in ratio. The end of an ODE is nearly a draw, no mean: with `inner_noise` 1
    on top the sources spread too much.
    """
    ratio = (config.sigma_min / sigma) ** (1 / config.ode_steps)
    for _ in range(config.ode_steps - 1):
        denoised = without_gradient(denoise, u, sigma)
        u, sigma = denoised + ratio * (u - denoised), ratio * sigma
    return without_gradient(denoise, u, sigma)


def condition_on_stft(
    guess: Tensor,
    target: Tensor,
    mixture: Tensor,
    error: Uncertainty,
    config: SamplerConfig,
) -> Tensor:
    """Sources (B, M, T) whose sum has gone `inner_steps` normalised gradient steps down ℓ.

    The likelihood sees the sum s only; what s moves, the sources share by their variances. A step
    moves s by half the RMS of what is missing, at most by its standard deviation.
    """
    total = guess.sum(dim=1)
    limit = error.isotropic * guess.shape[1] ** 0.5
    moved = total
    for _ in range(config.inner_steps):
        _, gradient = value_and_gradient(target, moved, config.compression)
        length = (0.5 * rms(mixture - moved)).clamp_max(limit)[:, None]
        moved = moved - length * gradient / (rms(gradient)[:, None] + 1e-12)
    return guess + error.share(moved - total)
