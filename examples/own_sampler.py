"""A sampler and a denoiser of your own, beside a sampler of davss.

    python examples/own_sampler.py

The sources are Gaussian with known spectra: their denoiser is a Wiener filter, and the posterior
mean, which no other estimate beats on average, is known.

B batch, M sources, T samples, F frequencies.
"""

import torch
from torch import Tensor

import davss
from davss.diffusion.schedule import sigma_schedule

T, MIXTURES = 8000, 4
generators = [torch.Generator().manual_seed(index) for index in range(MIXTURES)]
frequency = torch.linspace(0, 1, T // 2 + 1, dtype=torch.float64)
spectra = torch.stack([torch.exp(-20 * frequency), 0.3 * torch.ones_like(frequency)])  # (M, F)
spectra *= 0.05**2 / spectra.mean(dim=1, keepdim=True)  # RMS 0.05


def filtered(signal: Tensor, gain: Tensor) -> Tensor:
    """Signals (..., T) with a gain (..., F) for each frequency."""
    return torch.fft.irfft(gain * torch.fft.rfft(signal), n=T)


def denoise(u: Tensor, sigma: Tensor) -> Tensor:
    """E[x | u = x + sigma n] of every source on its own: (B, M, T), (B,) → (B, M, T)."""
    return filtered(u, spectra / (spectra + sigma[:, None, None] ** 2))


def own_sampler(denoise, mixture: Tensor, num_sources: int, num_steps: int = 50) -> Tensor:
    """Denoise, share out what is missing of the mixture, add less noise: (B, T) → (B, M, T)."""
    sigmas = sigma_schedule(num_steps, 1e-3, 0.5, rho=5)
    u = torch.zeros(len(mixture), num_sources, T, dtype=mixture.dtype)
    u += sigmas[0] * torch.randn(u.shape, generator=generators[0], dtype=u.dtype)
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        estimate = denoise(u, sigma.expand(len(u)))
        estimate = estimate + (mixture - estimate.sum(1))[:, None] / num_sources
        u = estimate + following * torch.randn(u.shape, generator=generators[0], dtype=u.dtype)
    return u


sources = torch.stack([torch.randn(2, T, generator=g, dtype=torch.float64) for g in generators])
sources = filtered(sources, spectra.sqrt())
mixture = sources.sum(dim=1)
config = davss.SamplerConfig(name="daps", num_steps=50, num_samples=4)
estimates = {
    "posterior mean": filtered(mixture[:, None], spectra / spectra.sum(dim=0)),
    "daps": davss.posterior.sample(denoise, mixture, 2, config, generators),
    "own sampler": own_sampler(denoise, mixture, 2),
}
for name, estimate in estimates.items():
    print(f"{name:15s} SI-SDR {davss.si_sdr(estimate, sources).mean().item():5.2f} dB")
