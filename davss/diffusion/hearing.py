"""What a prior hears in training beyond its own sounds in white noise (docs/method.md §2.2, §2.3).

A sound of its own, a sound of the other kind, or the two side by side and never one on top of the
other; in Gaussian noise that is white, or has the spectrum of one sound. Each sound is a single
clip: there are no mixtures. All choices follow from one uniform number an item.

B batch · T samples · F bins · N frames of the STFT with N_FFT and HOP, windows of unit energy.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from davss.config import ForeignConfig
from davss.diffusion.coloured import QUANTILE, quiet_level, smooth, sounding, spectral_errors
from davss.networks import spectrum

N_FFT, HOP = 512, 128
# Of items in coloured noise: silence; noise that is stationary; noise with a white floor.
SILENT, STATIONARY, WITH_FLOOR = 0.06, 0.3, 0.3
FRAMES, BINS = (5, 191), (1, 3, 5, 9)  # over which the power of a sound is averaged
FLOOR_DB = (-40.0, -10.0)
BLURRED, BLURS = 0.5, (3, 9, 31)  # what is told is often smoother than the noise, by these frames
NOTHING = 1e-14  # power of a sound that has none, 114 dB below sigma_data
STRETCHES, BANDS, LOWEST_BAND = (2, 9), (2, 7), 4  # of splices


class Heard(NamedTuple):
    """sound (B, T), what of it is the prior's own, and noisy: the sound in Gaussian noise.

    variance, told: (B, F, N) that of the noise, and what a separator might know of it; is_foreign,
    is_coloured: (B,) bool, items of which nothing is the prior's own, and whose noise is coloured.
    """

    sound: Tensor
    own: Tensor
    noisy: Tensor
    variance: Tensor
    told: Tensor
    is_foreign: Tensor
    is_coloured: Tensor


def hear(
    clean: Tensor,
    foreign: Tensor,
    noise: Tensor,
    uniforms: Tensor,
    sigma: Tensor,
    config: ForeignConfig,
    sigma_data: float,
) -> Heard:
    """A batch as `config` wants it.

    clean: (B, T) own sounds; foreign: (B, 2, T) sounds of the other kind, to be left out and to
    lend their spectrum to the noise; noise: (B, T) standard normal; uniforms: (B,) in [0, 1),
    float64; sigma: (B,) levels of white noise in which own sounds are heard.
    """
    items = zip(clean, foreign, noise, uniforms.tolist(), sigma, strict=True)
    heard = [_item(*item, config, sigma_data) for item in items]
    return Heard(*(torch.stack(field) for field in zip(*heard, strict=True)))


def expected_error(heard: Heard, sigma_data: float) -> Tensor:
    """Error power (B,) by which that of a denoiser counts: of the Wiener filter of what is heard,
    taken for stationary; twice that of sounds to be left out, half of which a filter would keep.
    """
    power = spectrum.stft(heard.sound, N_FFT, HOP).abs().square().mean(dim=-1, keepdim=True)
    power = power + 1e-3 * sigma_data**2
    error = (power * heard.variance / (power + heard.variance)).mean(dim=(1, 2))
    return error * (1 + heard.is_foreign.to(error))


def _item(
    clean: Tensor,
    foreign: Tensor,
    noise: Tensor,
    uniform: float,
    sigma: Tensor,
    config: ForeignConfig,
    sigma_data: float,
) -> tuple[Tensor, ...]:
    """A row of each field of `Heard`."""
    rng = np.random.default_rng(int(uniform * 2**53))
    role, is_coloured = rng.uniform(), bool(rng.uniform() < config.coloured)
    sound, own = clean, clean
    if is_foreign := role < config.negatives:
        sound, own = foreign[0], torch.zeros_like(clean)
        sigma = torch.full_like(sigma, _log_uniform(rng, *config.sigma))
    elif role < config.negatives + config.splices:
        sound, own = _splice(clean, foreign[0], rng)
    if is_coloured:
        if rng.uniform() < SILENT:
            sound, own = torch.zeros_like(clean), torch.zeros_like(clean)
        power = _power(foreign[1])
        variance = _variance(power, rng) * sigma_data**2 / 10 ** (rng.uniform(*config.snr_db) / 10)
        noisy = sound + _inverse(variance.sqrt() * _stft(noise), len(sound))
        told = _told(variance, _power(noisy), rng, config)
    else:
        noisy = sound + sigma * noise
        told = variance = sigma.square().expand(_stft(noise).shape)
    flags = (torch.tensor(flag, device=clean.device) for flag in (is_foreign, is_coloured))
    return sound, own, noisy, variance, told, *flags


def _splice(own: Tensor, other: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Two sounds (T,) side by side in stretches of time, in bands, or in tiles of both; and what
    of them is the first's.
    """
    z = _stft(own)
    kind = rng.integers(3)
    num_times = 0 if kind == 0 else rng.integers(*STRETCHES) - 1
    num_bands = 0 if kind == 1 else rng.integers(*BANDS) - 1
    times = rng.uniform(0, z.shape[1], num_times)
    bands = np.exp(rng.uniform(math.log(LOWEST_BAND), math.log(z.shape[0]), num_bands))
    # tiles by the number of edges below: the same for all bins and frames of a tile
    row = np.searchsorted(np.sort(bands), np.arange(z.shape[0]), side="right")
    column = np.searchsorted(np.sort(times), np.arange(z.shape[1]), side="right")
    chosen = rng.uniform(size=(len(bands) + 1, len(times) + 1)) < rng.uniform(0.3, 0.7)
    mask = torch.from_numpy(chosen[np.ix_(row, column)]).to(own)
    part = _inverse(mask * z, len(own))
    return part + _inverse((1 - mask) * _stft(other), len(own)), part


def _variance(power: Tensor, rng: np.random.Generator) -> Tensor:
    """Variances (F, N) of mean 1 from the power (F, N) of a sound, white where it is silent."""
    power = power if power.mean() > NOTHING else torch.ones_like(power)
    if rng.uniform() < STATIONARY:
        variance = power.mean(dim=1, keepdim=True).expand_as(power)
    else:
        variance = smooth(power, round(_log_uniform(rng, *FRAMES)), int(rng.choice(BINS)))
    variance = variance / variance.mean()
    floor = 10 ** (rng.uniform(*FLOOR_DB) / 10) if rng.uniform() < WITH_FLOOR else 0.0
    return variance + floor


def _told(
    variance: Tensor, noisy: Tensor, rng: np.random.Generator, config: ForeignConfig
) -> Tensor:
    """Variances (F, N) as a separator might know them: with errors, or what is stationary of the
    recording, whose power is `noisy` (F, N), instead.
    """
    errors = 10 ** (spectral_errors(rng.uniform(), len(variance)).to(variance)[:, None] / 10)
    if rng.uniform() < config.quiet:
        return errors * quiet_level(noisy, sounding(noisy), QUANTILE).expand_as(noisy)
    told = smooth(variance, int(rng.choice(BLURS))) if rng.uniform() < BLURRED else variance
    return errors * told


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _stft(signal: Tensor) -> Tensor:
    return spectrum.stft(signal[None], N_FFT, HOP)[0]


def _inverse(z: Tensor, length: int) -> Tensor:
    return spectrum.inverse_stft(z[None], N_FFT, HOP, length)[0]


def _power(signal: Tensor) -> Tensor:
    return _stft(signal).abs().square()
