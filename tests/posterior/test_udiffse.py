"""AV-UDiffSE on Gaussian sources, whose denoisers and posterior are known: speech alone is sampled,
and the noise is fitted to what it leaves.
"""

from dataclasses import replace

import pytest
import torch

from davss import Separator, si_sdr
from davss.config import SamplerConfig, UdiffseConfig
from davss.errors import DavssError
from davss.posterior import sample
from davss.posterior.noise_models import stft
from davss.posterior.noise_models import wiener as wiener_filter
from davss.posterior.sampling import evaluations
from davss.posterior.udiffse import LowRankNoise
from tests.posterior import oracle
from tests.priors import make_noise_prior, make_speech_prior

ADAPTED = UdiffseConfig()


def generators(count):
    return [torch.Generator().manual_seed(b) for b in range(count)]


def speech_denoiser(*which):
    """The exact denoiser of some of the oracle's sources."""

    def denoise(u, sigma):
        every = u.new_zeros(len(u), 3, u.shape[-1])
        every[:, which] = u
        return oracle.denoise(every, sigma)[:, which]

    return denoise


def wiener(mixture, *which):
    """The exact posterior mean of the first of `which`, the sources that the mixture has."""
    power = oracle.spectra()[list(which)]
    share = power[0] / power.sum(dim=0)
    return torch.fft.irfft(torch.fft.rfft(mixture) * share, n=mixture.shape[-1])


def separate(mixture, config, *which):
    return sample(speech_denoiser(*which), mixture, len(which), config, generators(len(mixture)))


def known_noise(monkeypatch, which):
    """The noise's variance is the true one from the start."""

    def __init__(self, mixture, config, generators):
        self.n_fft, self.least = config.noise_n_fft, torch.tensor(0.0)
        grid = torch.linspace(0, oracle.LENGTH // 2, self.n_fft // 2 + 1).round().long()
        self.w, self.h = oracle.spectra()[which][grid][None, :, None], torch.ones(1, 1, 1).double()

    monkeypatch.setattr(LowRankNoise, "__init__", __init__)
    monkeypatch.setattr(LowRankNoise, "fit", lambda self, rest: None)


@pytest.mark.parametrize(("voice", "other"), [(1, 0), (0, 1), (1, 2)])
def test_a_draw_is_as_good_as_an_exact_one_where_the_noise_is_known(monkeypatch, voice, other):
    """An exact draw errs twice as much as the posterior mean, 3 dB."""
    known_noise(monkeypatch, other)
    sources = oracle.draw_sources(6, seed=3)
    mixture = sources[:, voice] + sources[:, other]
    found = separate(mixture, replace(ADAPTED, num_samples=1), voice)[:, 0]
    best = si_sdr(wiener(mixture, voice, other), sources[:, voice]).mean()
    assert (si_sdr(found, sources[:, voice]).mean() - (best - 3)).abs() < 1.5


def test_two_speakers_share_the_residual(monkeypatch):
    known_noise(monkeypatch, 2)
    sources = oracle.draw_sources(6, seed=4)
    mixture = sources.sum(dim=1)
    found = separate(mixture, replace(ADAPTED, num_samples=1), 0, 1)
    for j in (0, 1):
        mean = si_sdr(oracle.posterior_mean(mixture)[:, j], sources[:, j]).mean()
        reached = si_sdr(found[:, j], sources[:, j]).mean()
        assert mean - 3 - 3.5 < reached < mean, "each knows the other to its noise level only"
    left = mixture - found.sum(dim=1)
    assert 0.3 < left.square().mean() / sources[:, 2].square().mean() < 3, "noise is left out"


def bursts(batch, seed):
    """A "speech" (B, T) that comes and goes, and its exact denoiser but for the STFT's."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(oracle.LENGTH, dtype=torch.float64) / 16_000
    active = ((t * 8) % 1 < 0.35).double()
    active = active / active.square().mean().sqrt()
    white = torch.randn(200, oracle.LENGTH, generator=generator, dtype=torch.float64)
    speech = oracle.color(white[:batch], oracle.spectra()[1]) * active
    envelope = stft(active * white, 512).abs().square().mean(dim=(0, 1))
    grid = torch.linspace(0, oracle.LENGTH // 2, 257).round().long()
    variance = (oracle.spectra()[1][grid][:, None] * envelope)[None]
    return speech, lambda u, sigma: wiener_filter(u[:, 0], sigma, variance, 512)[:, None]


@pytest.mark.parametrize("other", [0, 2])
def test_noise_is_fitted_to_what_speech_leaves(other):
    """Of speech that comes and goes, in noise that stays."""
    speech, denoise = bursts(4, seed=5)
    noise = oracle.draw_sources(4, seed=3)[:, other]
    mixture = speech + noise
    found = sample(denoise, mixture, 1, ADAPTED, generators(4))[:, 0]
    reached, given = (si_sdr(one, speech).mean() for one in (found, mixture))
    assert reached > given + 3 and reached > 7


def test_items_do_not_influence_each_other():
    mixture = oracle.draw_sources(3, seed=6).sum(dim=1)
    together = separate(mixture, ADAPTED, 0, 1)
    for b in range(3):
        alone = sample(speech_denoiser(0, 1), mixture[b : b + 1], 2, ADAPTED, [generators(3)[b]])
        torch.testing.assert_close(alone[0], together[b], rtol=1e-9, atol=1e-12)


def test_gradient_of_the_likelihood_is_that_of_its_definition():
    """Of −Σ |STFT rest|²/variance, up to the weight that overlapping frames have in the STFT."""
    rest = oracle.draw_sources(2, seed=7).sum(dim=1)
    noise = LowRankNoise(rest, UdiffseConfig(noise_rank=1), generators(2))
    noise.w, noise.h = torch.full_like(noise.w, 1 / 257), torch.full_like(noise.h, 257 * 0.02)
    torch.testing.assert_close(noise.whitened(rest, 0.03), rest / 0.05)


def test_it_costs_two_calls_a_step():
    calls = []

    def denoise(u, sigma):
        calls.append(float(sigma[0]))
        assert not torch.is_grad_enabled()
        return speech_denoiser(1)(u, sigma)

    sample(denoise, oracle.draw_sources(1, seed=8).sum(dim=1), 1, ADAPTED, generators(1))
    assert len(calls) == evaluations(ADAPTED) == 120
    assert max(calls) == pytest.approx(0.5) and min(calls) == pytest.approx(0.0057)


def test_silence_and_near_silence_are_finite():
    for scale in (0.0, 1e-12):
        mixture = scale * oracle.draw_sources(1, seed=9).sum(dim=1)
        assert torch.isfinite(separate(mixture, ADAPTED, 1)).all()


def test_the_separator_needs_no_other_noise_model():
    with pytest.raises(DavssError, match="sampler udiffse: .* give the noise model none"):
        Separator(make_speech_prior(), make_noise_prior(), ADAPTED)
    few = SamplerConfig(name="udiffse", num_steps=2, guidance_weight=0.0, noise_n_fft=256)
    separator = Separator(make_speech_prior(), "none", few)
    mixture = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    found = separator(mixture, num_speakers=2, sample_rate=8000)
    total = found.speech.sum(dim=1) + found.noise
    torch.testing.assert_close(total, mixture, atol=1e-4, rtol=0)
    assert found.num_evaluations == 8 and found.noise.std() > 0.01
