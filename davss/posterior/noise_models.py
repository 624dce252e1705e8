"""Noise models without training: Wiener filters whose variance is fitted while sampling.

In the STFT domain the noise is n_fn ~ CN(0, V_fn), so its denoiser is known, and V follows the
residual of the speech estimates as the sampler improves them (docs/method.md §6):

    D(u; σ) = iSTFT( V / (V + σ²) · STFT u )        (σ² may differ from bin to bin)
    P = |R|^{2η} V₀^{1−η},   R = STFT(y − Σ x̂_i),   η = V₀ / (V₀ + σ²)

`NmfNoise`: V = WH fitted to P, the noise model of AV-UDiffSE (Ayilo, Sadeghi, Serizel and
Alameda-Pineda, arXiv 2410.05301) for any number of speakers, who share the residual.
`GaussianNoise`: V = V(f), a low quantile of P over time.

Speech estimates begin near zero, where the residual is the mixture: what is fitted to it takes the
speech for noise and does not let it go again. (AV-UDiffSE begins at the mixture, so its residual
begins empty.) At noise level σ the estimates err by up to σ² a bin, so of the residual the share η
is noise, V₀ being a stationary spectrum read from the quiet moments of the mixture. P believes the
residual so far and V₀ for the rest; as σ → 0 it is AV-UDiffSE's |R|².

A model remembers its fit from call to call: make one for every mixture and draw.
Shapes: B batch · T samples · F bins · N frames · R rank.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from davss.diffusion.coloured import QUANTILE, quiet_level, sounding, variance
from davss.networks import spectrum
from davss.networks.spectrum import inverse_stft

WINDOW_SECONDS = 0.032
RANK = 4  # components of NMF
FLOOR = 1e-8  # smallest power relative to the mixture's: V⁻² stays within float32
SILENCE = 1e-20  # stands for the power of a silent mixture
SMALLEST = 1e-10  # keeps factors off zero, which no multiplication leaves


class NmfNoise:
    """Noise of low-rank variance V = WH, by Itakura–Saito updates along the reverse pass.

    mixture: (B, T), scaled so that every source is near RMS 0.05; sample_rate in Hz; generators:
    one CPU generator per item, from which its factors start.
    """

    def __init__(
        self,
        mixture: Tensor,
        sample_rate: int,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.evidence = Evidence(mixture, sample_rate)
        # Random about the blind spectrum: equal components would be updated equally for ever.
        w = uniform(self.evidence.num_bins, RANK, generators).to(mixture)
        h = uniform(RANK, self.evidence.num_frames, generators).to(mixture)
        blind = self.evidence.blind / (w @ h).mean(dim=-1, keepdim=True)
        self.w, self.h = normalise(w * blind, h)

    def __call__(self, u: Tensor, sigma: Tensor, residual: Tensor) -> Tensor:
        """Denoised (B, T), after an update of V: u (B, T) the noise source at noise levels sigma
        (B,), residual (B, T) = mixture − Σ speech estimates. Linear in u, constant in residual.
        """
        power = self.evidence.power(residual, sigma)
        self.w, self.h = multiplicative_update(power, self.w, self.h)
        return wiener(u, sigma, self.variance, self.evidence.n_fft)

    @property
    def variance(self) -> Tensor:
        """V (B, F, N), the expected |STFT n|² in the scale of the mixture."""
        return self.evidence.scale * (self.w @ self.h).clamp_min(FLOOR)


class GaussianNoise:
    """Stationary noise of variance V(f), the residual's level in the quiet moments of each bin.

    Arguments as of `NmfNoise`; nothing is drawn from the generators.
    """

    def __init__(
        self,
        mixture: Tensor,
        sample_rate: int,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.evidence = Evidence(mixture, sample_rate)
        self.v = self.evidence.blind

    def __call__(self, u: Tensor, sigma: Tensor, residual: Tensor) -> Tensor:
        """Denoised (B, T), as `NmfNoise` does it."""
        power = self.evidence.power(residual, sigma)
        # The residual is the mixture without some speech, so more noise than the mixture shows is
        # speech in the wrong place.
        trust = self.evidence.trust(sigma).mean(dim=-1, keepdim=True)
        level = quiet_level(power, self.evidence.sounding, QUANTILE, trust)
        self.v = level.clamp_min(FLOOR).minimum(self.evidence.blind)
        return wiener(u, sigma, self.variance, self.evidence.n_fft)

    @property
    def variance(self) -> Tensor:
        """V (B, F, 1), the expected |STFT n|² in the scale of the mixture."""
        return self.evidence.scale * self.v


class Evidence:
    """What mixture and residual say about the noise, relative to the mixture's mean power.

    mixture: (B, T); scale: (B, 1, 1) that power; sounding: (B, 1, N) where it is not muted;
    blind: (B, F, 1) V₀.
    """

    def __init__(self, mixture: Tensor, sample_rate: int) -> None:
        self.n_fft = fft_size(sample_rate)
        power = stft(mixture, self.n_fft).abs().square()
        self.num_bins, self.num_frames = power.shape[-2:]
        self.scale = power.mean(dim=(-2, -1), keepdim=True).clamp_min(SILENCE)
        self.sounding = sounding(power)
        self.blind = quiet_level((power / self.scale).clamp_min(FLOOR), self.sounding, QUANTILE)

    def trust(self, sigma: Tensor) -> Tensor:
        """η (B, F, 1 or N) at noise levels sigma, as `wiener` takes them."""
        level = self.scale * self.blind
        return level / (level + variance(sigma.to(level), self.num_bins, self.num_frames))

    @torch.no_grad()
    def power(self, residual: Tensor, sigma: Tensor) -> Tensor:
        """P (B, F, N) of a residual (B, T) of estimates at noise levels sigma (B,)."""
        power = stft(residual, self.n_fft).abs().square() / self.scale
        trust = self.trust(sigma)
        return power.clamp_min(FLOOR) ** trust * self.blind ** (1 - trust)


def fft_size(sample_rate: int) -> int:
    """Samples of the STFT at a rate in Hz: the power of two nearest to 32 ms."""
    return 2 ** round(math.log2(WINDOW_SECONDS * sample_rate))


@torch.no_grad()
def multiplicative_update(power: Tensor, w: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One M-step: W, then H, given power (…, F, N), w (…, F, R), h (…, R, N) → (w, h), every
    column of w summing to 1.

        W ← W ⊙ ((P ⊘ V²) Hᵀ) ⊘ ((1 ⊘ V) Hᵀ),   V = WH,   and H alike

    The updates of Févotte, Bertin and Durrieu 2009 (Neural Computation 21), as in AV-UDiffSE. They
    are not proven to descend (their square roots are) but are faster, and tests find they do.
    """
    level = power.mean(dim=(-2, -1), keepdim=True)
    inverse = (w @ h).clamp_min(SMALLEST * level).reciprocal()
    w = w * ((power * inverse**2) @ h.mT) / (inverse @ h.mT)
    w = w.clamp_min(SMALLEST)
    inverse = (w @ h).clamp_min(SMALLEST * level).reciprocal()
    h = h * (w.mT @ (power * inverse**2)) / (w.mT @ inverse)
    return normalise(w, h.clamp_min(SMALLEST * level))


def uniform(rows: int, columns: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Uniform (B, rows, columns), item b from generator b."""
    return torch.stack([torch.rand(rows, columns, generator=g) for g in generators])


def normalise(w: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with columns of w that sum to 1: w (…, F, R), h (…, R, N)."""
    total = w.sum(dim=-2, keepdim=True)
    return w / total, h * total.mT


def wiener(u: Tensor, sigma: Tensor, expected: Tensor, n_fft: int) -> Tensor:
    """Denoiser (B, T) of a source of STFT variance (B, F, N or 1): u (B, T), sigma (B,) or the
    variances of noise that is coloured, (B, F', N') on any grid.
    """
    z = stft(u, n_fft)
    gain = expected / (expected + variance(sigma.to(u), *z.shape[1:]))
    return inverse_stft(gain * z, n_fft, n_fft // 4, u.shape[-1])


def stft(signal: Tensor, n_fft: int) -> Tensor:
    """(B, T) → (B, F, N); T > n_fft/2."""
    # Reflected ends keep their level, and with it the ratio of noise to σ².
    return spectrum.stft(signal, n_fft, n_fft // 4, pad_mode="reflect")
