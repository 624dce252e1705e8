"""A denoiser preconditioned by spectra: EDM's σ_d and σ, bin by bin (docs/method.md §2.1, §2.3).

With U = STFT u, S(f) the power that the clean signal is expected to have, and V(f, n) the variance
of the Gaussian noise, σ² where that is white,

    D(u; V, S) = iSTFT( S/(S+V) · U  +  √(S V/(S+V)) · F( U/√(S+V); V, S/V ) )

which for S = σ_d² and V = σ² everywhere is the denoiser of EDM. With F = 0 it is the Wiener filter:
the network learns only what is better than that.

Spectra are those of Hann windows of unit energy, so that white noise of RMS r has V = r².
Shapes: B batch · T samples · F bins · N frames.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from davss.diffusion.denoiser import Denoiser
from davss.networks import NCSNpp
from davss.networks.film import Modulations
from davss.networks.precision import autocast

# Of S/σ²: what a spectrum takes for silent may still sound at times, and the network has to be
# able to say so with outputs of order one.
QUIETEST = 0.02
SMALLEST = 1e-9  # variance of noise
AUDIBLE = (5e-4**2, 1.0)  # variances that count in what the network knows as the noise level
QUANTILE = 0.3  # speech leaves a third of the moments of nearly every bin to the noise
MUTED = 10**-6.5  # of the mean power of frames, −65 dB: below it a frame is muted
OFFSET = 2  # lowest bins in which an offset, and what removing it leaves, would count as sound
# Errors of a spectrum in training, dB: of its level, of its shape between KNOTS, of single bins.
LEVEL_ERROR, SHAPE_ERROR, BIN_ERROR, KNOTS = 1.5, 1.5, 0.7, 10


def denoise(
    prior: Denoiser,
    u: Tensor,
    noise: Tensor,
    spectrum: Tensor | None = None,
    modulations: Modulations | None = None,
) -> Tensor:
    """D (B, T) of u (B, T); noise: levels σ (B,) of white noise, or variances (B, F, N) in the
    scale of u, on any grid; spectrum: (B, F) in the scale of u, None: as white as sigma_data.
    """
    network = prior.network
    z = network.stft(u)
    v = variance(noise, *z.shape[2:])[:, None].clamp_min(SMALLEST)
    if noise.ndim == 1:
        c_noise = torch.log(noise) / 4
    else:
        c_noise = v.clamp(*AUDIBLE).log().mean(dim=(1, 2, 3)) / 8
    if spectrum is None:
        s = torch.full_like(v, prior.sigma_data**2)
        colour = v.log() / 4 - 2 * c_noise[:, None, None, None]
    else:
        s = torch.maximum(spectrum[:, None, :, None], QUIETEST * v)
        colour = torch.log(s / v) / 4
    total = s + v
    with autocast(u.device, prior.precision):
        white = z / total.sqrt()
        residual = network.on_spectrogram(white, c_noise, modulations or [], colour.clamp(-4, 4))
    z = s / total * z + (s * v / total).sqrt() * residual[..., : z.shape[-1]].to(z.dtype)
    return network.istft(z, u.shape[-1])


def variance(noise: Tensor, num_bins: int, num_frames: int) -> Tensor:
    """V of Gaussian noise as (B, 1, 1), of levels σ (B,), or as (B, F, N) on a grid of `num_bins`
    and `num_frames` that spans the same time, of V (B, F', N').
    """
    if noise.ndim == 1:
        return noise.square()[:, None, None]
    grid = num_bins, num_frames
    if noise.shape[1:] == grid:
        return noise
    spread = F.interpolate(noise[:, None], grid, mode="bilinear", align_corners=True)
    return spread[:, 0]


def wiener_error(spectrum: Tensor, sigma: Tensor) -> Tensor:
    """Mean error power (B,) of the Wiener filter of spectrum (B, F) at noise levels sigma (B,)."""
    noise = sigma.square()[:, None]
    return (spectrum * noise / (spectrum + noise)).mean(dim=1)


def power(network: NCSNpp, signal: Tensor) -> Tensor:
    """|STFT|² (B, F, N) of signals (B, T)."""
    return network.stft(signal).square().sum(dim=1) / network.window.square().sum()


def own_spectrum(network: NCSNpp, signal: Tensor) -> Tensor:
    """S (B, F) of signals (B, T): what is loud at times is in the mean."""
    return power(network, signal).mean(dim=-1)


def blind_spectrum(network: NCSNpp, signal: Tensor) -> Tensor:
    """S (B, F) of what is stationary in signals (B, T), from their quiet moments."""
    found = power(network, signal)
    return quiet_level(found, sounding(found), QUANTILE)[..., 0]


def sounding(power: Tensor) -> Tensor:
    """Frames (…, 1, N) of power (…, F, N) that are not muted, as by a cut, a call's switch or a
    noise gate: those tell nothing of the noise. Muted is 65 dB below the mean.
    """
    level = power[..., OFFSET:, :].sum(dim=-2, keepdim=True)
    return level >= MUTED * level.mean(dim=-1, keepdim=True)


def quiet_level(
    power: Tensor, sounding: Tensor, quantile: float, exponent: Tensor | float = 1.0
) -> Tensor:
    """Mean power (…, F, 1) of Gaussian noise from a quantile over the `sounding` frames (…, 1, N)
    of power (…, F, N), which no louder event moves. Raised to `exponent`, an exponential variable
    of mean 1 has the quantile (−ln(1 − q))^exponent.
    """
    count = sounding.sum(dim=-1, keepdim=True)
    rank = (quantile * count.double()).round().long().clamp_min(1)
    ordered = power.where(sounding, torch.inf).sort(dim=-1).values
    lowest = ordered.gather(-1, (rank - 1).expand(*power.shape[:-1], 1))
    return lowest / (-math.log1p(-quantile)) ** exponent


def smooth(power: Tensor, frames: int, bins: int = 1) -> Tensor:
    """Means of power (…, F, N) over so many frames and bins, odd numbers, or the next ones."""
    ahead, below = frames // 2, bins // 2
    kernel = (2 * below + 1, 2 * ahead + 1)
    channel = power.unsqueeze(-3)
    return F.avg_pool2d(channel, kernel, 1, (below, ahead), count_include_pad=False).squeeze(-3)


def uncertain_spectrum(
    network: NCSNpp, signal: Tensor, recording: Tensor, uniforms: Tensor
) -> Tensor:
    """S (B, F) of signals (B, T) as a separator might know it: half of the time what is stationary
    of a recording (B, T), and with smooth errors.

    uniforms: (B,) in [0, 1), float64, from which all errors are drawn.
    """
    blind, own = blind_spectrum(network, recording), own_spectrum(network, signal)
    spectra = torch.where((uniforms < 0.5)[:, None], blind, own)
    errors = [spectral_errors(uniform, spectra.shape[1]) for uniform in uniforms.tolist()]
    return spectra * 10 ** (torch.stack(errors).to(spectra) / 10)


def spectral_errors(uniform: float, num_bins: int) -> Tensor:
    """Errors (F,) in dB of what is known of a spectrum, drawn from one number."""
    generator = torch.Generator().manual_seed(int(uniform * 2**53))
    level, knots, bins = torch.randn(1 + KNOTS + num_bins, generator=generator).split(
        [1, KNOTS, num_bins]
    )
    shape = LEVEL_ERROR * level + SHAPE_ERROR * knots
    smooth = F.interpolate(shape[None, None], num_bins, mode="linear", align_corners=True)
    return smooth[0, 0] + BIN_ERROR * bins
