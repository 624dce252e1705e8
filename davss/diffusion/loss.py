"""Denoising score matching with EDM's weighting and guidance drop-out (docs/method.md §2).

Shapes: B batch · T samples · V video frames · D visual feature size.
"""

import math

import torch
from torch import Tensor

from davss.config import DiffusionConfig, NegativesConfig
from davss.diffusion.coloured import own_spectrum, uncertain_spectrum, wiener_error
from davss.diffusion.denoiser import Denoiser, c_out
from davss.diffusion.prior import NoisePrior
from davss.diffusion.schedule import warp


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


def rejection_loss(denoised: Tensor, foreign: Tensor, sigma: Tensor) -> Tensor:
    """Half the power of what a denoiser keeps of foreign sounds, per item (B,), over the error of
    a Wiener filter for white noise of their power w: mean(D²) / (2 w σ²/(w + σ²)).

    foreign, denoised: (B, T); sigma: (B,). So it weighs about as much as the usual loss.
    """
    power, noise = foreign.square().mean(dim=1), sigma.square()
    error = power * noise / (power + noise) + 1e-12
    return denoised.square().mean(dim=1) / (2 * error)


def training_loss(
    prior: Denoiser,
    clean: Tensor,
    lips: Tensor | None,
    has_lips: Tensor | None,
    config: DiffusionConfig,
    noise: Tensor,
    uniforms: Tensor,
    hosts: Tensor | None = None,
    negatives: NegativesConfig = NegativesConfig(),  # noqa: B008 (frozen)
) -> tuple[Tensor, Tensor]:
    """Loss (B,) at random noise levels σ (B,), lips dropped for guidance: clean (B, T), lips (B,
    V, D), has_lips (B,) bool.

    The draws are given: noise (B, T) standard normal; uniforms (B, 3) in [0, 1), float64: for σ,
    for the lips, and for the errors of spectra. hosts: (B, T) signals of the prior's own kind, to
    which lips and spectra belong; an item of `clean` that is not its host is a foreign sound, of
    which the prior is to leave silence (docs/method.md §2.2).
    """
    sigma = noise_levels(uniforms[:, 0], config)
    foreign = None
    if hosts is not None:
        foreign = (clean != hosts).any(dim=1)
        low, high = negatives.sigma
        sigma = torch.where(foreign, low * (high / low) ** uniforms[:, 0], sigma)
    sigma = sigma.to(clean)
    noisy = clean + sigma[:, None] * noise
    if isinstance(prior, NoisePrior) and prior.network.coloured:
        own = clean if hosts is None else hosts
        spectrum = uncertain_spectrum(prior.network, own, uniforms[:, 2])
        denoised = prior(noisy, sigma, spectrum=spectrum)
        expected = wiener_error(own_spectrum(prior.network, own), sigma)
    else:
        if lips is not None:
            keep = uniforms[:, 1] >= config.lips_dropout
            has_lips = keep if has_lips is None else keep & has_lips
        modulations = None if lips is None else prior.condition(lips, clean.shape[-1], has_lips)
        denoised = prior(noisy, sigma, modulations)
        expected = c_out(sigma, config.sigma_data).square()
    loss = (denoised - clean).square().mean(dim=1) / expected
    if foreign is not None:
        loss = torch.where(foreign, rejection_loss(denoised, clean, sigma), loss)
    return loss, sigma
