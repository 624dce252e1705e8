"""Stationary Gaussian sources: priors, exact posterior samples and denoisers in closed form.

A source with power spectrum S(f), circular over T samples, has the denoiser D(u; σ) = S/(S + σ²) u
per frequency, and the posterior of several sources given their sum is Gaussian per frequency.
Whatever a sampler claims can be checked against it.
"""

import torch

LENGTH = 8_000
SIGMA_DATA = 0.05
LEVELS = (0.05, 0.05, 0.03)  # RMS of the sources


def spectra(length: int = LENGTH) -> torch.Tensor:
    """Power spectra (3, length//2 + 1) of a low, a middle and a weak broad source."""
    f = torch.linspace(0, 1, length // 2 + 1, dtype=torch.float64)
    shapes = torch.stack(
        [
            torch.exp(-(((f - 0.10) / 0.08) ** 2)) + 0.005,
            torch.exp(-(((f - 0.35) / 0.13) ** 2)) + 0.005,
            torch.ones_like(f),
        ]
    )
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    return shapes / shapes.mean(dim=1, keepdim=True) * levels[:, None] ** 2


def color(white: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Filter white noise (…, T) to the power spectrum (…, T//2 + 1)."""
    return torch.fft.irfft(torch.fft.rfft(white) * power.sqrt(), n=white.shape[-1])


def draw_sources(batch: int, seed: int) -> torch.Tensor:
    """Sources (batch, 3, T)."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(batch, 3, LENGTH, generator=generator, dtype=torch.float64)
    return color(white, spectra())


def denoise(u: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The exact denoiser of all three sources: u (B, 3, T), sigma (B,) → (B, 3, T)."""
    power = spectra().to(u.dtype)
    gain = power / (power + sigma[:, None, None] ** 2)
    return torch.fft.irfft(torch.fft.rfft(u) * gain, n=u.shape[-1])


def posterior_sample(mixture: torch.Tensor, seed: int) -> torch.Tensor:
    """An exact draw of the sources given their sum (B, T), by Matheron's rule: x + S/ΣS (y −
    Σx).
    """
    sources = draw_sources(len(mixture), seed)
    return sources + posterior_mean(mixture - sources.sum(dim=1))


def posterior_mean(mixture: torch.Tensor) -> torch.Tensor:
    """The mean of the sources given their sum (B, T): the Wiener filter S/ΣS."""
    power = spectra()
    share = power / power.sum(dim=0)
    return torch.fft.irfft(torch.fft.rfft(mixture)[:, None] * share, n=mixture.shape[-1])
