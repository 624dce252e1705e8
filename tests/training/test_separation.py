"""The separations on the way, and sounds that a prior makes up, against Gaussians known exactly."""

import math

import pytest
import torch

from davss.training import separation
from davss.training.separation import (
    mix_noises,
    mix_voices,
    sample_figures,
    separation_figures,
    unconditional,
)
from davss.training.validation import ValidationClips, wiener
from tests.priors import make_noise_prior, make_speech_prior

SIGMA_DATA = 0.05


def clips(count: int, seed: int = 0) -> ValidationClips:
    generator = torch.Generator().manual_seed(seed)
    audio = SIGMA_DATA * torch.randn(count, 3200, generator=generator)
    lips = torch.randn(count, 10, 6, generator=generator).half()
    return ValidationClips(audio, lips, tuple(f"clip{n}" for n in range(count)))


def level(signal: torch.Tensor) -> float:
    return 10 * math.log10(float(signal.square().mean()))


def test_mixtures_are_fixed_and_at_their_snr():
    mixtures = mix_voices(clips(3), count=2)
    assert mixtures.keys == ("clip0+clip1", "clip1+clip2")
    assert mixtures.speech.shape == (2, 2, 3200) and mixtures.lips.shape == (2, 2, 10, 6)
    noise = mixtures.mixture - mixtures.speech.sum(dim=1)
    for item in range(2):
        snr = level(mixtures.speech[item].sum(dim=0)) - level(noise[item])
        assert snr == pytest.approx(separation.SNR_DB, abs=0.01)
    assert torch.equal(mixtures.mixture, mix_voices(clips(3), count=2).mixture)
    assert mix_voices(clips(1), count=2).speech.shape == (1, 1, 3200)


def bands() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean |DFT|² of signals of RMS sigma_data below, and above, a quarter of the rate."""
    low = torch.full((1601,), 1e-6)
    low[:800] = 2 * SIGMA_DATA**2 * 3200
    return low, low.flip(0)


def band_clips(spectrum: torch.Tensor, seed: int) -> ValidationClips:
    white = clips(2, seed)
    audio = torch.fft.irfft(torch.fft.rfft(white.audio) * spectrum.sqrt(), n=3200)
    audio *= SIGMA_DATA / audio.square().mean(-1, keepdim=True).sqrt()
    return ValidationClips(audio, white.lips, white.keys)


def knowing(prior, spectrum: torch.Tensor):
    """The prior with the exact denoiser of Gaussian signals of a spectrum in place of its own."""
    prior.forward = lambda u, sigma, *_, **__: wiener(u, float(sigma[0]), spectrum)
    return prior


def test_priors_that_know_their_bands_separate_them_and_wrong_ones_do_not():
    low, high = bands()
    mixtures = mix_noises(
        band_clips(high, 0), band_clips(low, 1), 2, lambda: knowing(make_speech_prior(), high)
    )
    assert mixtures.keys == ("clip0", "clip1") and mixtures.speech.shape == (2, 1, 3200)
    right = separation_figures(knowing(make_noise_prior(), low), mixtures, 8)
    assert right["valid/si_sdr_improvement"] > 10
    wrong = separation_figures(knowing(make_noise_prior(), high), mixtures, 8)
    assert wrong["valid/si_sdr_improvement"] < right["valid/si_sdr_improvement"] - 5
    again = separation_figures(knowing(make_noise_prior(), low), mixtures, 8)
    assert again == right


def test_a_speech_prior_needs_no_noise_prior():
    figures = separation_figures(make_speech_prior(), mix_voices(clips(2), 2), 2)
    assert math.isfinite(figures["valid/si_sdr_improvement"])


def test_made_up_signals_of_a_gaussian_have_its_level():
    low, _ = bands()
    prior = knowing(make_noise_prior(), low)
    samples = unconditional(prior, 3200, 30)
    assert samples.shape == (separation.SAMPLES, 3200)
    figures = sample_figures(samples, SIGMA_DATA)
    assert figures["valid/sample_level"] == pytest.approx(0, abs=1)
    assert figures["valid/sample_level_spread"] < 1
    above = torch.fft.rfft(samples)[:, 850:].abs().square().mean()
    assert float(above) < 0.01 * float(low[0])
    assert torch.equal(samples, unconditional(prior, 3200, 30))
