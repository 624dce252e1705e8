"""A denoiser preconditioned by a spectrum: EDM's σ_d, frequency by frequency (docs/method.md §2.1).

With U = STFT u and S(f) the power that the clean signal is expected to have,

    D(u; σ, S) = iSTFT( S/(S+σ²) · U  +  √(S σ²/(S+σ²)) · F( U/√(S+σ²); σ, S/σ² ) )

which for S = σ_d² at all frequencies is the denoiser of EDM. With F = 0 it is the Wiener filter of
stationary Gaussian noise of spectrum S: the network learns only what is better than that.

Spectra are those of Hann windows of unit energy, so that white noise of RMS r has S = r².
Shapes: B batch · T samples · F bins · N frames.
"""

import math

import torch
from torch import Tensor

from davss.diffusion.denoiser import Denoiser
from davss.networks import NCSNpp
from davss.networks.precision import autocast

# Of S/σ²: what a spectrum takes for silent may still sound at times, and the network has to be
# able to say so with outputs of order one.
QUIETEST = 0.02
QUANTILE = 0.3  # speech leaves a third of the moments of nearly every bin to the noise
MUTED = 10**-6.5  # of the mean power of frames, −65 dB: below it a frame is muted
OFFSET = 2  # lowest bins in which an offset, and what removing it leaves, would count as sound
# Errors of a spectrum in training, dB: of its level, of its shape between KNOTS, of single bins.
LEVEL_ERROR, SHAPE_ERROR, BIN_ERROR, KNOTS = 1.5, 1.5, 0.7, 10


def denoise(prior: Denoiser, u: Tensor, sigma: Tensor, spectrum: Tensor) -> Tensor:
    """D (B, T): u (B, T) at noise levels sigma (B,), spectrum (B, F) in the scale of u."""
    noise = sigma.square()[:, None, None, None]
    s = torch.maximum(spectrum[:, None, :, None], QUIETEST * noise)
    network, total = prior.network, s + noise
    z = network.stft(u)
    ratio = (s / noise)[:, 0, :, 0]
    with autocast(u.device, prior.precision):
        white = z / total.sqrt()
        residual = network.on_spectrogram(white, torch.log(sigma) / 4, [], ratio)
    z = s / total * z + (s * noise / total).sqrt() * residual[..., : z.shape[-1]].to(z.dtype)
    return network.istft(z, u.shape[-1])


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


def uncertain_spectrum(network: NCSNpp, signal: Tensor, uniforms: Tensor) -> Tensor:
    """S (B, F) as a separator might know it: half of the time blind, and with smooth errors.

    signal: (B, T); uniforms: (B,) in [0, 1), float64, from which all errors are drawn.
    """
    spectra = torch.where(
        (uniforms < 0.5)[:, None], blind_spectrum(network, signal), own_spectrum(network, signal)
    )
    errors = [_error(float(uniform), spectra.shape[1]) for uniform in uniforms]
    return spectra * 10 ** (torch.stack(errors).to(spectra) / 10)


def _error(uniform: float, num_bins: int) -> Tensor:
    generator = torch.Generator().manual_seed(int(uniform * 2**53))
    level, knots, bins = torch.randn(1 + KNOTS + num_bins, generator=generator).split(
        [1, KNOTS, num_bins]
    )
    shape = LEVEL_ERROR * level + SHAPE_ERROR * knots
    smooth = torch.nn.functional.interpolate(
        shape[None, None], num_bins, mode="linear", align_corners=True
    )
    return smooth[0, 0] + BIN_ERROR * bins
