"""What all samplers share: noise levels with churn, random draws, and what a callback sees.

Shapes: B batch · M sources · T samples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from davss.config import SamplerConfig
from davss.diffusion.schedule import sigma_schedule
from davss.posterior.likelihood import compressed_distance, compressed_stft

Denoise = Callable[[Tensor, Tensor], Tensor]
SIGMA_DATA = 0.05  # RMS of a source as samplers know it, whatever the priors' own


@dataclass(frozen=True)
class Step:
    """What a callback sees of one step; tensors are the sampler's own, to be read, not kept by
    reference.
    """

    step: int
    sigma: float  # σ̂ after churn
    u: Tensor  # (B, M, T) state at σ̂
    denoised: Tensor  # (B, M, T) estimate û
    likelihood: Tensor  # (B,) ℓ of Σ û
    prior_step: Tensor  # (B, M) RMS of the move along the prior
    likelihood_step: Tensor  # (B, M) RMS of the move towards the mixture


Callback = Callable[[Step], None]


class Watch:
    """Reports every step of a draw to the callback; without one it computes nothing."""

    def __init__(self, mixture: Tensor, compression: float, callback: Callback | None) -> None:
        self.mixture, self.compression, self.callback = mixture, compression, callback

    @cached_property
    def target(self) -> Tensor:
        """Compressed STFT of the mixtures, (B, F, N), item by item: the last few elements of a
        tensor are raised to a power by other instructions than the rest, so that a batch's last
        item would differ from the same item alone in the last bit.
        """
        items = self.mixture.split(1)
        return torch.cat([compressed_stft(item, self.compression) for item in items])

    def __call__(
        self,
        level: "Level",
        u: Tensor,
        denoised: Tensor,
        move: Tensor,
        push: Tensor,
        likelihood: Tensor | None = None,
    ) -> None:
        """A step from u to u + move + push, all (B, M, T); `likelihood` (B,) if it is known."""
        if self.callback is None:
            return
        if likelihood is None:
            total = denoised.sum(dim=1)
            likelihood = compressed_distance(self.target, total, self.compression)
        moves = rms(move), rms(push)
        self.callback(Step(level.step, level.sigma_hat, u, denoised, likelihood, *moves))


@dataclass(frozen=True)
class Level:
    """One step from σ̂ (σ raised by churn) down to `sigma_next`, which is 0 at the last."""

    step: int
    sigma: float
    sigma_hat: float
    sigma_next: float

    @property
    def is_last(self) -> bool:
        """Whether û at this level is the result."""
        return self.sigma_next == 0


def levels(config: SamplerConfig) -> Iterator[Level]:
    """The levels of one draw; churn raises each by at most √2 − 1 of itself (EDM, algorithm 2)."""
    grid = sigma_schedule(config.num_steps, config.sigma_min, config.sigma_max, config.rho)
    sigmas = [*grid.tolist(), 0.0]
    gamma = min(config.s_churn / config.num_steps, 2**0.5 - 1)
    for step, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        yield Level(step, sigma, sigma * (1 + gamma), sigma_next)


def start(
    mixture: Tensor,
    num_sources: int,
    config: SamplerConfig,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """The state at σ_0, noise alone, (B, M, T)."""
    return config.sigma_max * standard_normal(mixture, num_sources, generators)


def churn(u: Tensor, level: Level, generators: Sequence[torch.Generator]) -> Tensor:
    """Raise the noise of u (B, M, T) from σ to σ̂."""
    if level.sigma_hat <= level.sigma:
        return u
    spread = (level.sigma_hat**2 - level.sigma**2) ** 0.5
    return u + spread * standard_normal(u[:, 0], u.shape[1], generators)


def standard_normal(
    mixture: Tensor, num_sources: int, generators: Sequence[torch.Generator]
) -> Tensor:
    """Standard normal (B, M, T) like a mixture (B, T), item b from generator b.

    Drawn on the CPU, so that a seed means the same everywhere; from pinned memory it goes to a GPU
    while that computes, and nothing waits.
    """
    pinned = mixture.is_cuda and torch.cuda.is_available()
    shape = (len(generators), num_sources, mixture.shape[-1])
    noise = torch.empty(shape, dtype=mixture.dtype, pin_memory=pinned)
    for item, generator in zip(noise, generators, strict=True):
        item.normal_(generator=generator)
    return noise.to(mixture.device, non_blocking=True)


def share_out(sources: Tensor, mixture: Tensor) -> Tensor:
    """Sources (B, M, T) that add up to the mixture (B, T): each takes as much of what is missing
    (24).
    """
    return sources + (mixture - sources.sum(dim=1))[:, None] / sources.shape[1]


def at_level(u: Tensor, sigma: float) -> Tensor:
    """The noise level of every item, (B,)."""
    return torch.full((len(u),), sigma, dtype=u.dtype, device=u.device)


@torch.no_grad()
def without_gradient(denoise: Denoise, u: Tensor, sigma: float) -> Tensor:
    """û of u (B, M, T), for samplers that take no gradient through the denoiser."""
    return denoise(u, at_level(u, sigma))


def rms(x: Tensor) -> Tensor:
    """Root mean square over time of (…, T); row by row, so that it does not depend on the batch to
    the last bit.
    """
    rows = [row.square().mean() for row in x.flatten(0, -2)]
    return torch.stack(rows).sqrt().view(x.shape[:-1])
