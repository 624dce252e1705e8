"""The separator around the sampler: shapes, rates, levels, lips, calls, errors."""

from dataclasses import replace

import pytest
import torch

from davss import Separator
from davss.config import SamplerConfig
from davss.diffusion.prior import NoisePrior
from davss.errors import DavssError
from tests.priors import INFO, make_noise_prior, make_speech_prior

SAMPLER = SamplerConfig(num_steps=4, s_churn=1.0)


@pytest.fixture(scope="module")
def separator():
    return Separator(make_speech_prior(), make_noise_prior(), SAMPLER, device="cpu")


@pytest.fixture
def mixture():
    return 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def lips():
    return torch.randn(2, 2, 25, 6, generator=torch.Generator().manual_seed(0))


def test_shapes_and_trace(separator, mixture, lips):
    result = separator(mixture, lips, sample_rate=8000)
    assert result.speech.shape == (2, 2, 8000) and result.noise.shape == (2, 8000)
    assert result.errors == [None, None] and result.num_evaluations == 4
    assert result.trace["sigma"].shape == (4,) and result.trace["likelihood"].shape == (4, 2)
    assert result.trace["prior_step"].shape == result.trace["likelihood_step"].shape == (4, 2, 3)


@pytest.mark.parametrize(("rate", "length"), [(16000, 15999), (44100, 44100), (8000, 8000)])
def test_output_has_the_rate_and_length_of_the_input(separator, rate, length):
    result = separator(0.1 * torch.randn(1, length), sample_rate=rate)
    assert result.speech.shape == (1, 1, length)


def test_scaling_the_input_scales_the_output(separator, mixture, lips):
    loud = separator(mixture, lips, sample_rate=8000)
    quiet = separator(mixture / 1000, lips, sample_rate=8000)
    torch.testing.assert_close(quiet.speech * 1000, loud.speech, rtol=1e-3, atol=1e-4)


def test_items_do_not_see_each_other(separator, mixture, lips):
    both = separator(mixture, lips, sample_rate=8000, keys=["a", "b"], seed=3)
    alone = separator(mixture[1:], lips[1:], sample_rate=8000, keys=["b"], seed=3)
    torch.testing.assert_close(alone.speech[0], both.speech[1], rtol=1e-4, atol=1e-5)
    other = separator(mixture[1:], lips[1:], sample_rate=8000, keys=["b"], seed=4)
    assert (other.speech - alone.speech).abs().max() > 1e-3


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_one_call_of_each_network_per_step(mixture, lips, weight):
    speech, noise = make_speech_prior(), make_noise_prior()
    calls = {"speech": [], "noise": []}
    speech.network.register_forward_hook(lambda m, a, o: calls["speech"].append(len(o)))
    noise.network.register_forward_hook(lambda m, a, o: calls["noise"].append(len(o)))
    sampler = replace(SAMPLER, guidance_weight=weight)
    Separator(speech, noise, sampler, device="cpu")(mixture, lips, sample_rate=8000)
    branches = 2 if weight else 1  # no guidance costs no second branch
    assert calls == {"speech": [2 * 2 * branches] * 4, "noise": [2] * 4}


def test_speakers_without_lips(separator, mixture, lips):
    result = separator(mixture, lips[:, :1], num_speakers=3, sample_rate=8000)
    assert result.speech.shape == (2, 3, 8000)
    assert separator(mixture, num_speakers=0, sample_rate=8000).speech.shape == (2, 0, 8000)
    with pytest.raises(DavssError, match="lips of 2 speakers"):
        separator(mixture, lips, num_speakers=1, sample_rate=8000)


def test_bad_input_is_named(separator, mixture, lips):
    broken = mixture.clone()
    broken[1, 5] = float("nan")
    with pytest.raises(DavssError, match="^b: .*NaN"):
        separator(broken, sample_rate=8000, keys=["a", "b"])
    with pytest.raises(DavssError, match="^1: the mixture is silent"):
        separator(torch.stack([mixture[0], torch.zeros(8000)]), sample_rate=8000)
    with pytest.raises(DavssError, match=r"lips: 20 frames are 0.80 s, the mixture lasts 1.00 s"):
        separator(mixture, lips[:, :, :20], sample_rate=8000)
    with pytest.raises(DavssError, match="features of size 5"):
        separator(mixture, lips[..., :5], sample_rate=8000)


def test_priors_of_two_rates_do_not_fit():
    with pytest.raises(DavssError, match="8000 Hz, the noise prior at 16000 Hz"):
        Separator(make_speech_prior(), NoisePrior(replace(INFO, sample_rate=16000)))


def test_a_diverged_item_is_silent_and_named(mixture):
    noise = make_noise_prior()
    separator = Separator(make_speech_prior(), noise, SAMPLER, device="cpu")

    def break_second(module, arguments, output):
        return output * torch.tensor([1.0, float("inf")])[: len(output), None]

    handle = noise.register_forward_hook(break_second)
    result = separator(mixture, sample_rate=8000, keys=["a", "b"])
    handle.remove()
    assert result.errors[0] is None
    assert result.errors[1].startswith("b: the sampler diverged at step 0 of 4")
    assert result.speech[1].abs().max() == 0
    good = separator(mixture[:1], sample_rate=8000, keys=["a"])
    torch.testing.assert_close(result.speech[0], good.speech[0], rtol=1e-4, atol=1e-5)
