"""What of the error of a sum is whose: the variance of each source's estimate.

A way of sharing is a function in `SHARES`, named by `DapsConfig.shares`:

    (denoise, mixture (B, T), u (B, M, T), û (B, M, T), σ) → Variance

`white_error`: r² = σ²σ_d²/(σ² + σ_d²), the error of a white source of RMS σ_d: equal shares.
`measured`: what a denoiser takes away is noise plus its own error. For an exact one the state
u = x + σε splits into û and u − û with

    E|u − û|² = σ² − E|x − û|²        so        r² = σ² − E|u − û|²

(the law of total variance), which holds bin by bin of the STFT; the expectation is taken over a
neighbourhood of the bin. So the denoiser itself says where each source is certain, for no call and
no gradient: the shares become those of a Wiener filter that follows the sources.
`offer`: Tweedie's covariance of the errors is σ² ∂D/∂u. What a denoiser keeps of the residual
ρ = y − Σ û, offered on top of its state, is that matrix times ρ, so that

    r² = σ² |D(u + ρ) − û| / |ρ|

bin by bin: whose sound the residual is, its denoiser keeps. One more call.

Shapes: B batch · M sources · T samples · F bins · N frames.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from davss.networks import spectrum
from davss.posterior.steps import SIGMA_DATA, Denoise, without_gradient

Variance = float | Tensor  # one number for all, or one per source and bin, (B, M, F, N)

N_FFT, HOP = 256, 64
stft = partial(spectrum.stft, n_fft=N_FFT, hop=HOP)
inverse_stft = partial(spectrum.inverse_stft, n_fft=N_FFT, hop=HOP)
BINS, FRAMES = 3, 5  # the neighbourhood over which the variance is averaged
# Times that of a white source: an average over a neighbourhood is noisy, a denoiser not exact.
LOWEST, HIGHEST = 0.003, 20.0
SILENCE = 1e-6  # of the residual's mean power: below it nothing is offered


def white_error(sigma: float) -> float:
    """r² (20) of a white source at noise level σ."""
    return sigma**2 * SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2)


def isotropic(
    denoise: Denoise, mixture: Tensor, u: Tensor, denoised: Tensor, sigma: float
) -> Variance:
    """That of a white source (20), for all."""
    return white_error(sigma)


def measured(
    denoise: Denoise, mixture: Tensor, u: Tensor, denoised: Tensor, sigma: float
) -> Variance:
    """What û errs by, from what it takes away (21)."""
    variance = sigma**2 - neighbourhood_mean(stft(u - denoised).abs().square())
    return variance.clamp(LOWEST * white_error(sigma), HIGHEST * white_error(sigma))


def offer(denoise: Denoise, mixture: Tensor, u: Tensor, denoised: Tensor, sigma: float) -> Variance:
    """What û errs by, from what is kept of the residual when it is offered (23)."""
    residual = (mixture - denoised.sum(dim=1))[:, None]
    kept = without_gradient(denoise, u + residual, sigma) - denoised
    kept, offered = (stft(x).abs().square() for x in (kept, residual))
    least = SILENCE * offered.mean(dim=(-2, -1), keepdim=True) + torch.finfo(u.dtype).tiny
    variance = sigma**2 * (kept / (offered + least)).sqrt()
    return variance.clamp(LOWEST * white_error(sigma), HIGHEST * white_error(sigma))


SHARES: dict[str, Callable[[Denoise, Tensor, Tensor, Tensor, float], Variance]] = {
    "isotropic": isotropic,
    "measured": measured,
    "offer": offer,
}


def color(white: Tensor, variance: Variance) -> Tensor:
    """White noise (B, M, T) brought to a variance."""
    if isinstance(variance, float):
        return variance**0.5 * white
    return inverse_stft(variance.sqrt() * stft(white), length=white.shape[-1])


def split(missing: Tensor, variance: Variance, num_sources: int) -> Tensor:
    """What of an error (B, T) of the sum is each source's, (B, M, T)."""
    if isinstance(variance, float):
        return (1 / num_sources * missing)[:, None].expand(-1, num_sources, -1)
    shares = variance / variance.sum(dim=1, keepdim=True)
    return inverse_stft(shares * stft(missing)[:, None], length=missing.shape[-1])


def neighbourhood_mean(power: Tensor) -> Tensor:
    """Mean over BINS × FRAMES around every bin of power (B, M, F, N)."""
    padding = (BINS // 2, FRAMES // 2)
    return F.avg_pool2d(power, (BINS, FRAMES), 1, padding, count_include_pad=False)
