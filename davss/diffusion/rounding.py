"""What rounding its weights costs a prior, measured on random signals.

Shapes: B batch · T samples · V video frames · D visual feature size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.diffusion.schedule import VALIDATION_SIGMAS
from davss.media import FPS

_BATCH, _SECONDS = 2, 1.0


@dataclass(frozen=True)
class RoundingCost:
    """How a rounded prior differs at one noise level."""

    sigma: float
    difference: float  # largest |difference| of outputs, relative to their RMS
    gain: float  # dB by which the prior denoises: the error of u over that of D(u)
    loss: float  # dB of it that rounding takes away; negative where it adds


def rounding_cost(
    prior: SpeechPrior | NoisePrior, rounded: SpeechPrior | NoisePrior, seed: int = 0
) -> list[RoundingCost]:
    """Compare two priors on coloured noise at RMS sigma_data, half of it with random lips where
    they take lips, at every sigma of `VALIDATION_SIGMAS`.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = _coloured(round(_SECONDS * prior.sample_rate), prior.sigma_data, generator)
    lips = None
    if isinstance(prior, SpeechPrior):
        frames = round(_SECONDS * FPS)
        lips = torch.randn(_BATCH, frames, prior.visual_encoder.dim, generator=generator)
    costs = []
    for sigma in VALIDATION_SIGMAS:
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        exact, close = (_denoised(each, noisy, sigma, lips) for each in (prior, rounded))
        gain, left = (_gain(clean, noisy, output) for output in (exact, close))
        difference = (close - exact).abs().max() / exact.square().mean().sqrt()
        costs.append(RoundingCost(sigma, difference.item(), gain, gain - left))
    return costs


def _coloured(num_samples: int, level: float, generator: torch.Generator) -> Tensor:
    """Gaussian signals (B, T) at RMS `level` whose power falls by 6 dB an octave."""
    spectrum = torch.fft.rfft(torch.randn(_BATCH, num_samples, generator=generator))
    spectrum = spectrum / torch.arange(1, spectrum.shape[-1] + 1).clamp(min=num_samples // 80)
    signal = torch.fft.irfft(spectrum, n=num_samples)
    return level * signal / signal.square().mean(dim=1, keepdim=True).sqrt()


@torch.no_grad()
def _denoised(
    prior: SpeechPrior | NoisePrior, noisy: Tensor, sigma: float, lips: Tensor | None
) -> Tensor:
    levels = torch.full((len(noisy),), sigma)
    has_lips = torch.arange(len(noisy)) % 2 == 0
    return prior(noisy, levels, prior.condition(lips, noisy.shape[-1], has_lips))


def _gain(clean: Tensor, noisy: Tensor, denoised: Tensor) -> float:
    ratio = (noisy - clean).square().sum() / (denoised - clean).square().sum()
    return 10 * torch.log10(ratio).item()
