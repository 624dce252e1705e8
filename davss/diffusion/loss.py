"""Denoising score matching with EDM's weighting and guidance drop-out (docs/method.md §2).

Shapes: B batch · T samples · V video frames · D visual feature size.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from davss.config import DiffusionConfig
from davss.diffusion.denoiser import Denoiser, c_out
from davss.diffusion.schedule import warp
from davss.networks.film import Modulations


def denoising_loss(
    denoise: Callable[..., Tensor],
    clean: Tensor,
    sigma: Tensor,
    noise: Tensor,
    sigma_data: float,
    lips: Tensor | Modulations | None = None,
) -> Tensor:
    """Weighted squared error (D(u_0 + σ ε; σ, V) − u_0)² / c_out² per item, (B,).

    The weight makes it equal to the network's own regression error, (F − (u_0 − c_skip u)/c_out)².
    """
    denoised = denoise(clean + sigma[:, None] * noise, sigma, lips)
    return (((denoised - clean) / c_out(sigma, sigma_data)[:, None]) ** 2).mean(dim=1)


def noise_levels(uniforms: Tensor, config: DiffusionConfig) -> Tensor:
    """σ (B,) of uniform draws (B,) in [0, 1): the grid's law, or EDM's log-normal between
    sigma_min and sigma_max.
    """
    if config.lognormal is None:
        return warp(uniforms, config.sigma_min, config.sigma_max, config.rho)
    mean, deviation = config.lognormal
    lowest, highest = (
        0.5 * (1 + math.erf((math.log(sigma) - mean) / deviation / math.sqrt(2)))
        for sigma in (config.sigma_min, config.sigma_max)
    )
    fraction = lowest + (highest - lowest) * uniforms
    return (mean + deviation * torch.special.ndtri(fraction)).exp()


def training_loss(
    prior: Denoiser,
    clean: Tensor,
    lips: Tensor | None,
    has_lips: Tensor | None,
    config: DiffusionConfig,
    noise: Tensor,
    uniforms: Tensor,
) -> tuple[Tensor, Tensor]:
    """Loss (B,) at random noise levels σ (B,), lips dropped for guidance: clean (B, T), lips (B,
    V, D), has_lips (B,) bool.

    The draws are given: noise (B, T) standard normal; uniforms (B, 2) in [0, 1), float64, one for σ
    and one for the lips.
    """
    sigma = noise_levels(uniforms[:, 0], config).to(clean)
    modulations: Modulations | None = None
    if lips is not None:
        keep = uniforms[:, 1] >= config.lips_dropout
        has_lips = keep if has_lips is None else keep & has_lips
        modulations = prior.condition(lips, clean.shape[-1], has_lips)
    return denoising_loss(prior, clean, sigma, noise, config.sigma_data, modulations), sigma
