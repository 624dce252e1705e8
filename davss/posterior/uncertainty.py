"""How far a denoiser's estimates are from the sources, and what of an error of their sum is whose.

`isotropic`: r² = σ²σ_d²/(σ² + σ_d²), the error of a white source of RMS σ_d.
`measured`: what a denoiser takes away is noise plus its own error. For an exact one the state
u = x + σε splits into û and u − û with

    E|u − û|² = σ² − E|x − û|²        so        r² = σ² − E|u − û|²

(the law of total variance), which holds bin by bin of the STFT; the expectation is taken over a
neighbourhood of the bin. So the denoiser itself says where each source is certain, for no call and
no gradient: the shares become those of a Wiener filter that follows the sources.

Shapes: B batch · M sources · T samples · F bins · N frames.
"""

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from davss.config import SamplerConfig
from davss.posterior import spectrum

N_FFT, HOP = 256, 64
stft = partial(spectrum.stft, n_fft=N_FFT, hop=HOP)
inverse_stft = partial(spectrum.inverse_stft, n_fft=N_FFT, hop=HOP)
BINS, FRAMES = 3, 5  # the neighbourhood over which the variance is averaged
# Times the isotropic variance: an average over a neighbourhood is noisy, a denoiser not exact.
LOWEST, HIGHEST = 0.003, 20.0


@dataclass(frozen=True)
class Uncertainty:
    """Variances of the sources' errors: one number, or with `measured` one per source and bin."""

    isotropic: float  # standard deviation r
    num_sources: int
    measured: Tensor | None = None  # (B, M, F, N)

    def color(self, white: Tensor) -> Tensor:
        """White noise (B, M, T) brought to these variances."""
        if self.measured is None:
            return self.isotropic * white
        return inverse_stft(self.measured.sqrt() * stft(white), length=white.shape[-1])

    def share(self, missing: Tensor, sigma_y: float = 0.0) -> Tensor:
        """What of an error (B, T) of the sum is each source's, (B, M, T); `sigma_y` is the standard
        deviation of what is no source's.
        """
        if self.measured is None:
            share = self.isotropic**2 / (self.num_sources * self.isotropic**2 + sigma_y**2)
            return (share * missing)[:, None].expand(-1, self.num_sources, -1)
        shares = self.measured / (self.measured.sum(dim=1, keepdim=True) + sigma_y**2)
        return inverse_stft(shares * stft(missing)[:, None], length=missing.shape[-1])


def uncertainty(u: Tensor, denoised: Tensor, sigma: float, config: SamplerConfig) -> Uncertainty:
    """The uncertainty of û = `denoised` (B, M, T), of states u (B, M, T) at noise level σ."""
    isotropic = sigma * config.sigma_data / (sigma**2 + config.sigma_data**2) ** 0.5
    if config.variance == "isotropic":
        return Uncertainty(isotropic, u.shape[1])
    removed = stft(u - denoised).abs().square()
    measured = sigma**2 - neighbourhood_mean(removed)
    measured = measured.clamp(LOWEST * isotropic**2, HIGHEST * isotropic**2)
    return Uncertainty(isotropic, u.shape[1], measured)


def neighbourhood_mean(power: Tensor) -> Tensor:
    """Mean over BINS × FRAMES around every bin of power (B, M, F, N)."""
    padding = (BINS // 2, FRAMES // 2)
    return F.avg_pool2d(power, (BINS, FRAMES), 1, padding, count_include_pad=False)
