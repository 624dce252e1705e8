"""Denoising score matching with EDM's weighting and guidance drop-out (docs/method.md §2).

Shapes: B batch · T samples · V video frames · D visual feature size.
"""

import math

import torch
from torch import Tensor

from davss.config import DiffusionConfig, ForeignConfig
from davss.diffusion.coloured import own_spectrum, uncertain_spectrum, wiener_error
from davss.diffusion.denoiser import Denoiser, c_out
from davss.diffusion.hearing import expected_error, hear
from davss.diffusion.prior import NoisePrior
from davss.diffusion.schedule import warp

LARGE = 3.0


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
    foreign: Tensor | None = None,
    uses: ForeignConfig = ForeignConfig(),  # noqa: B008 (frozen)
) -> Tensor:
    """Loss (B,) at random noise levels σ, lips dropped for guidance: clean (B, T), lips (B, V, D),
    has_lips (B,) bool.

    The draws are given: noise (B, T) standard normal; uniforms (B, 3) in [0, 1), float64: for σ,
    for the lips, and for the rest. foreign: (B, 2, T) sounds of the other kind, used as `uses`
    says (docs/method.md §2.2, §2.3).
    """
    sigma = noise_levels(uniforms[:, 0], config).to(clean)
    own, noisy, level, recording = clean, clean + sigma[:, None] * noise, sigma, clean
    if foreign is not None:
        heard = hear(clean, foreign, noise, uniforms[:, 2], sigma, uses, config.sigma_data)
        own, noisy = heard.own, heard.noisy
        level = heard.told if prior.network.coloured else heard.told[:, 0, 0].sqrt()
        recording = torch.where(heard.is_coloured[:, None], noisy, clean)
    if _knows_spectrum(prior):
        spectrum = uncertain_spectrum(prior.network, clean, recording, uniforms[:, 2])
        denoised = prior(noisy, level, spectrum=spectrum)
    else:
        if lips is not None:
            keep = uniforms[:, 1] >= config.lips_dropout
            has_lips = keep if has_lips is None else keep & has_lips
        modulations = None if lips is None else prior.condition(lips, clean.shape[-1], has_lips)
        denoised = prior(noisy, level, modulations)
    error = (denoised - own).square().mean(dim=1)
    if foreign is not None:
        return _tempered(error / expected_error(heard, config.sigma_data))
    if _knows_spectrum(prior):
        return error / wiener_error(own_spectrum(prior.network, clean), sigma)
    return error / c_out(sigma, config.sigma_data).square()


def _knows_spectrum(prior: Denoiser) -> bool:
    return isinstance(prior, NoisePrior) and prior.network.coloured


def _tempered(loss: Tensor) -> Tensor:
    """Logarithmic above LARGE: few items, of which the prior was told what is not so, outweigh no
    others.
    """
    excess = (loss / LARGE).clamp_min(1.0)
    return torch.where(loss < LARGE, loss, LARGE * (1 + excess.log()))
