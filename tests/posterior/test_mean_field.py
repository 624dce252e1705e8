"""The mean field on Gaussian sources, whose denoisers are Wiener filters, and in a separator."""

from dataclasses import replace

import pytest
import torch

from davss import Separator, si_sdr
from davss.config import SamplerConfig
from davss.diffusion.prior import COLOURED, NoisePrior, SpeechPrior
from davss.errors import DavssError
from davss.posterior import sample
from davss.posterior.mean_field import N_FFT
from davss.posterior.noise_models import stft, wiener
from tests.priors import INFO, make_noise_prior, make_speech_prior

T = 16000
CONFIG = SamplerConfig(name="mean_field")


def make_sources(batch=2):
    """Speech of low frequencies (B, 1, T) that pauses half of the time, and white noise."""
    torch.manual_seed(0)
    white = torch.randn(2, batch, T)
    low = torch.fft.irfft(torch.fft.rfft(white[0]) * (torch.arange(T // 2 + 1) < 800), n=T)
    on = (torch.arange(T) // 2000) % 2
    return torch.stack([0.2 * on * low, 0.02 * white[1]], dim=1)


SOURCES = make_sources()
MIXTURE = SOURCES.sum(dim=1)
POWER = stft(SOURCES[:, 0], N_FFT).abs().square()  # of the speech, which its denoiser knows


def denoise(u, variance):
    """Of the speech the exact one; the noise expects its own level."""
    speech = wiener(u[:, 0], variance[:, 0], POWER[: len(u)], N_FFT)
    noise = wiener(u[:, 1], POWER[: len(u)], torch.full_like(POWER[: len(u)], 0.02**2), N_FFT)
    return torch.stack([speech, noise], dim=1)


def test_it_is_as_good_as_the_wiener_filter_that_knows_the_noise():
    found = sample(denoise, MIXTURE, 2, CONFIG, [])
    known = torch.full_like(POWER, 0.02**2)
    best = si_sdr(wiener(MIXTURE, known, POWER, N_FFT), SOURCES[:, 0])
    assert (si_sdr(found[:, 0], SOURCES[:, 0]) > best - 0.3).all()
    assert (best > si_sdr(MIXTURE, SOURCES[:, 0]) + 10).all()
    torch.testing.assert_close(found.sum(dim=1), MIXTURE)


def test_an_item_depends_on_no_other():
    alone = sample(denoise, MIXTURE[:1], 2, CONFIG, [])
    torch.testing.assert_close(alone, sample(denoise, MIXTURE, 2, CONFIG, [])[:1])


def test_speakers_are_heard_in_noise_and_in_each_other():
    heard = []

    def halves(u, variance):
        heard.append(variance)
        return torch.cat([0.5 * u[:, :2], 0 * u[:, 2:]], dim=1)

    sample(halves, MIXTURE, 3, SamplerConfig(name="mean_field", num_steps=2), [])
    first, second = (variance.mean(dim=(2, 3)) for variance in heard)
    torch.testing.assert_close(first[:, 0], first[:, 1])
    quiet = heard[0].amin(dim=(1, 3)).mean(dim=1)  # where nobody speaks it is the noise alone
    total = stft(MIXTURE, N_FFT).abs().square().mean(dim=(1, 2))
    torch.testing.assert_close(second[:, 0], quiet + total / 4, rtol=0.1, atol=0)


def make_coloured(kind):
    """An untrained prior for coloured noise."""
    network = replace(INFO.network, coloured=True)
    info = replace(INFO, network=network, training={COLOURED: True})
    if kind is NoisePrior:
        return NoisePrior(info)
    return SpeechPrior(info, make_speech_prior().visual_encoder)


@pytest.mark.parametrize("noise", ["prior", "gaussian", "nmf"])
@pytest.mark.parametrize("num_speakers", [0, 1, 2])
def test_a_separator_of_coloured_priors(noise, num_speakers):
    model = make_coloured(NoisePrior) if noise == "prior" else noise
    separator = Separator(make_coloured(SpeechPrior), model, CONFIG)
    lips = torch.randn(2, 1, 25, 6) if num_speakers else None
    mixture = MIXTURE[:, :8000]
    found = separator(mixture, lips, num_speakers, sample_rate=8000)
    assert found.errors == [None, None] and found.num_evaluations == 1
    total = found.speech.sum(dim=1) + found.noise
    torch.testing.assert_close(total, mixture, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.trace["sigma"], torch.zeros(1))


def test_priors_that_know_white_noise_alone_are_refused():
    with pytest.raises(DavssError, match="speech prior was trained for white noise alone"):
        Separator(make_speech_prior(), "gaussian", CONFIG)
    with pytest.raises(DavssError, match="noise prior was trained for white noise alone"):
        Separator(make_coloured(SpeechPrior), make_noise_prior(), CONFIG)
    with pytest.raises(DavssError, match="give another than none"):
        Separator(make_coloured(SpeechPrior), "none", CONFIG)
    with pytest.raises(DavssError, match="white noise alone; give it levels"):
        make_speech_prior()(MIXTURE, POWER)
