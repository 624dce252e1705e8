"""Algorithm 1 of DAVSS-NM (arXiv 2509.14379): coupled reverse ODEs, steered by the reconstruction
likelihood.

Each source follows the probability-flow ODE of its own prior; all are pulled by the gradient of
one likelihood of their sum.
Because the mixture sees the sources through their sum only, its gradient v is taken once and every
source receives its vector–Jacobian product: one forward and one backward per denoiser call.

Shapes: B batch · M sources · T samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from davss.config import SamplerConfig
from davss.diffusion.schedule import sigma_schedule
from davss.posterior.likelihood import (
    compressed_distance,
    compressed_stft,
    value_and_gradient,
)

Denoise = Callable[[Tensor, Tensor], Tensor]


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
    prior_step: Tensor  # (B, M) RMS of the move along the prior's ODE
    likelihood_step: Tensor  # (B, M) RMS of the move along −∇ℓ


Callback = Callable[[Step], None]


def sample(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: SamplerConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """Sources (B, M, T) drawn from the posterior given their sum, the mean of `config.num_samples`
    draws.

    denoise: (u (B, M, T), sigma (B,)) → denoised (B, M, T), differentiable, each source alone;
    mixture: (B, T), already scaled so that every source is near the priors' sigma_data, float32 or
    float64; generators: one CPU generator per item, so that an item's result depends on no other
    item. A diverged item is non-finite, the others are not touched.
    """
    draws = [
        sample_once(denoise, mixture, num_sources, config, generators, callback)
        for _ in range(config.num_samples)
    ]
    return torch.stack(draws).mean(dim=0)


def sample_once(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: SamplerConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """One draw of the sources, (B, M, T); see `sample`."""
    grid = sigma_schedule(config.num_steps, config.sigma_min, config.sigma_max, config.rho)
    sigmas = [*grid.tolist(), 0.0]
    target = compressed_stft(mixture, config.compression)
    step_scale = config.zeta * mixture.shape[-1] ** 0.5

    def slope(u: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """û, ℓ, and both parts of d = du/dσ: along the prior's ODE and along the likelihood's
        gradient.
        """
        denoised, likelihood, gradient = estimate(denoise, u, sigma, target, config.compression)
        pull = step_scale * gradient / (row_norm(gradient) + 1e-8)
        return denoised, likelihood, (u - denoised) / sigma, pull

    u = sigmas[0] * draw(mixture, num_sources, generators)
    if config.warm_start:
        u = u + mixture[:, None] / num_sources
    for k, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        sigma_hat = sigma * (1 + min(config.s_churn / config.num_steps, 2**0.5 - 1))
        if sigma_hat > sigma:
            spread = config.s_noise * (sigma_hat**2 - sigma**2) ** 0.5
            u = u + spread * draw(mixture, num_sources, generators)
        if sigma_next == 0:  # û is the result: there is no move left to steer
            denoised, likelihood = conclude(denoise, u, sigma_hat, target, config.compression)
            if callback:
                still = torch.zeros_like(u[..., 0])
                callback(Step(k, sigma_hat, u, denoised, likelihood, still, still))
            return denoised
        denoised, likelihood, prior_slope, pull = slope(u, sigma_hat)
        dt = sigma_next - sigma_hat
        if callback:
            moves = (rms(dt * prior_slope), rms(dt * pull))
            callback(Step(k, sigma_hat, u, denoised, likelihood, *moves))
        d = prior_slope + pull
        if config.order == 2:
            _, _, prior_slope, pull = slope(u + dt * d, sigma_next)
            d = (d + prior_slope + pull) / 2
        u = u + dt * d
    raise AssertionError("the last noise level is zero")


def estimate(
    denoise: Denoise, u: Tensor, sigma: float, target: Tensor, compression: float
) -> tuple[Tensor, Tensor, Tensor]:
    """û (B, M, T), ℓ (B,) and ∂ℓ/∂u (B, M, T) by one forward and one backward through the
    denoiser.
    """
    u = u.detach().requires_grad_(True)
    levels = torch.full((len(u),), sigma, dtype=u.dtype, device=u.device)
    with torch.enable_grad():
        denoised = denoise(u, levels)
    likelihood, v = value_and_gradient(target, denoised.detach().sum(dim=1), compression)
    (gradient,) = torch.autograd.grad(denoised, u, v[:, None].expand_as(denoised))
    return denoised.detach(), likelihood, gradient


@torch.no_grad()
def conclude(
    denoise: Denoise, u: Tensor, sigma: float, target: Tensor, compression: float
) -> tuple[Tensor, Tensor]:
    """û (B, M, T) and ℓ (B,) without a gradient."""
    levels = torch.full((len(u),), sigma, dtype=u.dtype, device=u.device)
    denoised = denoise(u, levels)
    return denoised, compressed_distance(target, denoised.sum(dim=1), compression)


def draw(mixture: Tensor, num_sources: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal (B, M, T), item b from generator b."""
    shape = (num_sources, mixture.shape[-1])
    items = [torch.randn(shape, generator=g, dtype=mixture.dtype) for g in generators]
    return torch.stack(items).to(mixture.device)


def row_norm(x: Tensor) -> Tensor:
    """Euclidean norm per item and source, (B, M, 1); row by row, so that it does not depend on the
    batch to the last bit.
    """
    rows = [torch.linalg.vector_norm(row) for row in x.flatten(0, 1)]
    return torch.stack(rows).view(*x.shape[:2], 1)


def rms(x: Tensor) -> Tensor:
    """Root mean square over time, (B, M)."""
    return x.square().mean(dim=-1).sqrt()
