"""AV-UDiffSE (Ayilo, Sadeghi, Serizel and Alameda-Pineda, arXiv 2410.05301): speech alone follows a
reverse SDE, and low-rank noise is fitted to what it leaves of the mixture on the way.

The noise is no source: in the STFT domain it is CN(0, V), V = WH, and at noise level σ the mixture
minus the states of K speakers has the variance K σ² + V. The sampler begins at the mixture. Every
step is a corrector (Langevin) and a predictor (Euler–Maruyama), before which V is fitted and after
which the states move towards the mixture. No gradient goes through a network.
Not to be confused with `davss.posterior.noise_models.NmfNoise`, a source beside the others.

Shapes: B batch · M sources, here the K speakers · T samples · F bins · N frames. Numbers in
brackets are equations of docs/method.md §5.3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from davss.config import UdiffseConfig
from davss.networks.spectrum import inverse_stft
from davss.posterior.noise_models import (
    FLOOR,
    SILENCE,
    multiplicative_update,
    normalise,
    stft,
    uniform,
)
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


def udiffse(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: UdiffseConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """One draw of the speakers, (B, M, T), which do not add up to the mixture; see
    `davss.posterior.sample`.
    """
    watch = Watch(mixture, config.compression, callback)
    noise = LowRankNoise(mixture, config, generators)
    u = start(mixture, num_sources, config, generators) + mixture[:, None] / num_sources  # (30)
    estimate = u
    for level in levels(config):
        u, sigma = churn(u, level, generators), level.sigma_hat
        fits = level.step % config.likelihood_every == 0
        if fits:
            noise.fit(mixture - estimate.sum(dim=1))  # (27)
        pull = config.corrector**2 * (without_gradient(denoise, u, sigma) - u)
        kick = 2**0.5 * config.corrector * sigma * standard_normal(mixture, num_sources, generators)
        u = u + pull + kick  # (31)
        estimate = without_gradient(denoise, u, sigma)
        if level.is_last:
            still = torch.zeros_like(u)
            watch(level, u, estimate, still, still)
            return estimate
        removed = sigma**2 - level.sigma_next**2
        fresh = removed**0.5 * standard_normal(mixture, num_sources, generators)
        move = removed / sigma**2 * (estimate - u) + fresh  # (32)
        push = torch.zeros_like(u)
        if fits:
            rest = mixture - (u + move).sum(dim=1)
            step = noise.whitened(rest, num_sources * sigma**2)
            push = config.likelihood_weight * removed * step[:, None].expand_as(u)  # (33)
        watch(level, u, estimate, move, push)
        u = u + move + push
    raise AssertionError("the last noise level is zero")


class LowRankNoise:
    """V = WH of mixtures (B, T), which starts at random."""

    def __init__(
        self, mixture: Tensor, config: UdiffseConfig, generators: Sequence[torch.Generator]
    ) -> None:
        self.n_fft = config.noise_n_fft
        power = stft(mixture, self.n_fft).abs().square()
        self.least = FLOOR * power.mean(dim=(-2, -1), keepdim=True).clamp_min(SILENCE)
        w = uniform(power.shape[-2], config.noise_rank, generators).to(mixture)
        h = uniform(config.noise_rank, power.shape[-1], generators).to(mixture)
        # as published, where signals are scaled to a peak of 1 in the STFT
        self.w, self.h = normalise(w, h * power.amax(dim=(-2, -1), keepdim=True).clamp_min(SILENCE))

    def fit(self, rest: Tensor) -> None:
        """One multiplicative update to the power of what speech leaves of the mixture, (B, T)."""
        power = stft(rest, self.n_fft).abs().square().maximum(self.least)
        self.w, self.h = multiplicative_update(power, self.w, self.h)

    def whitened(self, rest: Tensor, variance: float) -> Tensor:
        """What is left (B, T), divided by its variance in every bin: the gradient of its likelihood
        when the states err by `variance` besides.
        """
        total = (self.w @ self.h).maximum(self.least) + variance
        z = stft(rest, self.n_fft) / total
        return inverse_stft(z, self.n_fft, self.n_fft // 4, rest.shape[-1])
