"""The separator around the sampler: shapes, rates, levels, lips, calls, errors."""

import functools
from dataclasses import replace

import pytest
import torch

from davss import Separator
from davss.config import SamplerConfig, SeparationConfig
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


def test_items_do_not_see_each_other(separator, mixture, lips):
    both = separator(mixture, lips, sample_rate=8000, keys=["a", "b"], seed=3)
    alone = separator(mixture[1:], lips[1:], sample_rate=8000, keys=["b"], seed=3)
    torch.testing.assert_close(alone.speech[0], both.speech[1], rtol=1e-4, atol=1e-5)
    other = separator(mixture[1:], lips[1:], sample_rate=8000, keys=["b"], seed=4)
    assert (other.speech - alone.speech).abs().max() > 1e-3


def test_mixtures_are_separated_a_batch_at_a_time(mixture):
    noise, sizes = make_noise_prior(), []
    noise.register_forward_hook(lambda m, arguments, output: sizes.append(len(output)))
    execution = SeparationConfig(batch_size=3)
    separator = Separator(make_speech_prior(), noise, SAMPLER, "cpu", execution)
    separator(mixture.repeat(2, 1)[:, :1000], sample_rate=8000)
    assert sizes == [3] * 4 + [1] * 4


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
    with pytest.raises(DavssError, match=r"lasts 0.050 s; give at least 0.1 s"):
        separator(mixture[:, :400], sample_rate=8000)
    with pytest.raises(DavssError, match="sample_rate = 0"):
        separator(mixture, sample_rate=0)
    with pytest.raises(DavssError, match=r"shape \(0, 8000\)"):
        separator(mixture[:0], sample_rate=8000)


def test_priors_of_two_rates_do_not_fit():
    with pytest.raises(DavssError, match="8000 Hz, the noise prior at 16000 Hz"):
        Separator(make_speech_prior(), NoisePrior(replace(INFO, sample_rate=16000)))


def test_an_item_that_diverges_is_tried_again_with_half_of_zeta(mixture):
    zetas = []
    separator = Separator(make_speech_prior(), make_noise_prior(), SAMPLER, device="cpu")

    def break_second(module, arguments, output):
        return output * torch.tensor([1.0, float("inf")])[: len(output), None]

    def watch(step):
        if step.step == 0:
            zetas.append(step.likelihood_step[0, 0].item())

    handle = separator.noise_prior.register_forward_hook(break_second)
    result = separator(mixture, sample_rate=8000, keys=["a", "b"], callback=watch)
    handle.remove()
    assert result.errors == [None, None] and result.trace["retries"].tolist() == [0, 1]
    assert zetas[1] == pytest.approx(zetas[0] / 2, rel=1e-3)
    assert all(torch.isfinite(values).all() for values in result.trace.values())
    assert result.speech[1].abs().max() > 0 and torch.isfinite(result.speech).all()
    good = separator(mixture[:1], sample_rate=8000, keys=["a"])
    torch.testing.assert_close(result.speech[0], good.speech[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "mend"), [("dps", "half of zeta"), ("daps", "other random")])
def test_an_item_that_diverges_twice_is_silent_and_named(mixture, name, mend):
    noise = make_noise_prior()
    noise.register_forward_hook(lambda module, arguments, output: output * torch.inf)
    config = SamplerConfig(name=name, num_steps=4)
    separator = Separator(make_speech_prior(), noise, config, device="cpu")
    result = separator(mixture, sample_rate=8000, keys=["a", "b"])
    assert result.errors[1].startswith("b: the sampler diverged at step 0 of 4")
    assert mend in result.errors[1]
    assert result.speech.abs().max() == 0 and result.noise.abs().max() == 0


class FallibleSeparator(Separator):
    """A separator that diverges for windows that end with a spike."""

    def denoisers(self, mixture, lips, num_speakers, generators):
        broken = torch.where(mixture[:, -1:, None] > 0.5, torch.inf, 1.0)
        for denoise in super().denoisers(mixture, lips, num_speakers, generators):
            yield lambda u, sigma, denoise=denoise: denoise(u, sigma) * broken


def test_a_window_that_diverges_is_left_in_the_noise():
    sampler = replace(SAMPLER, window_seconds=1.0, overlap_seconds=0.2)
    separator = FallibleSeparator(make_speech_prior(), make_noise_prior(), sampler, device="cpu")
    mixture = 0.1 * torch.randn(1, 20160, generator=torch.Generator().manual_seed(1))
    mixture[0, -1] = 2.0
    result = separator(mixture, sample_rate=8000, keys=["a"])
    assert len(separator.plan(20160)) == 3
    assert result.errors == [None]
    assert result.trace["retries"].tolist() == [1]
    assert torch.isfinite(result.trace["likelihood"]).all()  # that of the other windows
    (warning,) = result.warnings[0]
    assert warning.startswith("a: from 1.5 to 2.5 s left in the noise: the sampler diverged")
    assert result.speech[0, 0, -4000:].abs().max() == 0
    torch.testing.assert_close(result.noise[0, -4000:], mixture[0, -4000:], rtol=0, atol=1e-5)
    assert result.speech[0, 0, :10000].abs().max() > 0


class Noisy(Separator):
    """A separator to which everything is noise."""

    def denoisers(self, mixture, lips, num_speakers, generators):
        found = torch.stack([0 * mixture, mixture], dim=1)
        yield lambda u, sigma: found + 0 * u


def test_a_click_in_silence_is_no_divergence():
    click = torch.zeros(1, 16000)
    click[0, 8000] = 0.5  # 126 times as loud as the recording
    daps = SamplerConfig(name="daps", num_steps=2)
    separator = Noisy(make_speech_prior(), "gaussian", daps, device="cpu")
    result = separator(click, sample_rate=8000)
    assert result.errors == [None] and result.trace["retries"].tolist() == [0]
    torch.testing.assert_close(result.noise, click, rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
@pytest.mark.parametrize("sampler", ["dps", "daps"])
def test_any_level(mixture, lips, factor, sampler):
    config = SamplerConfig(name=sampler, num_steps=4)
    separator = Separator(make_speech_prior(), make_noise_prior(), config, device="cpu")
    one = separator(mixture, lips, sample_rate=8000).speech
    other = separator(factor * mixture, lips, sample_rate=8000).speech / factor
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


def test_an_offset_stays_in_the_noise(separator, mixture, lips):
    plain = separator(mixture - mixture.mean(dim=1, keepdim=True), lips, sample_rate=8000)
    shifted = separator(mixture + 0.5, lips, sample_rate=8000)
    torch.testing.assert_close(shifted.speech, plain.speech, rtol=1e-3, atol=1e-4)
    assert (shifted.noise - plain.noise).mean() == pytest.approx(0.5, abs=0.01)
    with pytest.raises(DavssError, match="silent"):
        separator(torch.full((1, 8000), 0.3), sample_rate=8000)


def test_a_clipped_recording_is_separated(separator, mixture):
    result = separator((10 * mixture).clamp(-1, 1), sample_rate=8000)
    assert torch.isfinite(result.speech).all() and result.errors == [None, None]


@pytest.mark.parametrize("model", ["nmf", "gaussian", "none"])
@pytest.mark.parametrize("sampler", ["dps", "daps"])
def test_noise_models_without_a_prior(mixture, lips, model, sampler):
    config = SamplerConfig(name=sampler, num_steps=4, num_samples=2)
    separator = Separator(make_speech_prior(), model, config, device="cpu")
    result = separator(mixture, lips, sample_rate=8000, keys=["a", "b"])
    assert result.speech.shape == (2, 2, 8000) and result.noise.shape == (2, 8000)
    if sampler == "daps":  # which ends on the sum itself
        total = result.speech.sum(dim=1) + result.noise
        torch.testing.assert_close(total, mixture, rtol=0, atol=1e-5)
    alone = separator(mixture[1:], lips[1:], sample_rate=8000, keys=["b"])
    torch.testing.assert_close(alone.speech[0], result.speech[1], rtol=1e-3, atol=1e-4)


def test_without_noise_model_and_speakers_nothing_is_left(mixture):
    with pytest.raises(DavssError, match="nothing is left to find"):
        Separator(make_speech_prior(), "none", SAMPLER)(mixture, num_speakers=0, sample_rate=8000)


def test_several_draws_have_a_spread(mixture, lips):
    config = replace(SAMPLER, num_samples=3)
    separator = Separator(make_speech_prior(), make_noise_prior(), config, device="cpu")
    result = separator(mixture, lips, sample_rate=8000)
    assert result.spread.shape == (2, 3, 129, 125)
    assert result.spread.min() >= 0 and result.spread.mean() > 0
    assert separator(mixture, lips, sample_rate=8000, seed=1).spread.shape == (2, 3, 129, 125)


def test_a_long_recording_keeps_its_length_and_lips():
    sampler = replace(SAMPLER, num_steps=2, window_seconds=1.0, overlap_seconds=0.2, num_samples=2)
    speech = make_speech_prior()
    seen = []
    original = speech.condition
    speech.condition = lambda lips, *rest: seen.append(lips) or original(lips, *rest)
    separator = Separator(speech, make_noise_prior(), sampler, device="cpu")
    generator = torch.Generator().manual_seed(0)
    mixture = 0.1 * torch.randn(2, 44101, generator=generator)  # 2.76 s at 16 kHz
    mixture[0, 26000:] = 0  # the last window of one item is silent
    video = torch.arange(69.0).view(1, 1, 69, 1).expand(2, 1, 69, 6)  # frame v holds v
    result = separator(mixture, video, num_speakers=2, sample_rate=16000, keys=["a", "b"])
    assert result.speech.shape == (2, 2, 44101) and result.spread.shape[-1] == 345
    total = result.speech.sum(dim=1) + result.noise
    assert torch.isfinite(total).all() and result.errors == [None, None]
    assert result.speech[0, :, -6000:].abs().max() == 0
    starts = {int(lips[0, 0, 0]) for lips in seen if lips is not None}
    windows = separator.plan(22051)
    assert starts <= {start // 320 for start in windows.starts} and 0 in starts
    alone = separator(mixture[1:], video[1:], num_speakers=2, sample_rate=16000, keys=["b"])
    torch.testing.assert_close(alone.speech[0], result.speech[1], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def two_windows():
    """Speech (2, 2, T) separated in two windows, computed in some way."""
    seeded = torch.Generator().manual_seed(0)
    mixture = 0.1 * torch.randn(2, 6400, generator=seeded)
    lips = torch.randn(2, 2, 20, 6, generator=seeded)
    sampler = replace(SAMPLER, window_seconds=0.5, overlap_seconds=0.1)
    priors = make_speech_prior(), make_noise_prior()

    @functools.cache
    def separate(**execution):
        settings = SeparationConfig(**execution)
        return Separator(*priors, sampler, "cpu", settings)(mixture, lips, sample_rate=8000).speech

    return separate


@pytest.mark.parametrize(
    ("execution", "tolerance"),
    [
        ({"checkpointing": True}, 1e-5),
        ({"batch_size": 1}, 1e-5),
        ({"precision": "bfloat16"}, 0.02),
        pytest.param({"compile": True}, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_execution_changes_results_by_rounding_only(two_windows, execution, tolerance):
    found, expected = two_windows(**execution), two_windows()
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_a_separator_changes_nothing_of_its_priors(mixture, lips):
    speech, noise = make_speech_prior().train(), make_noise_prior().requires_grad_(True)
    noise.network.compile_unet()  # as in training, whose weights change on
    execution = SeparationConfig(checkpointing=True, compile=True, precision="bfloat16")
    separator = Separator(speech, noise, SAMPLER, "cpu", execution)
    Separator(speech, noise, SAMPLER, "cpu")(mixture[:, :1000], sample_rate=8000)  # not compiled
    assert speech.training and noise.network.all_modules[3].weight.requires_grad
    for prior, own in ((speech, separator.speech_prior), (noise, separator.noise_prior)):
        assert prior.precision == torch.float32 and not prior.network.checkpointing
        assert all(p.is_contiguous() for p in prior.parameters())
        pairs = zip(prior.parameters(), own.parameters(), strict=True)
        assert all(p.data_ptr() != q.data_ptr() for p, q in pairs)
    assert "_unet" not in vars(speech.network)
    assert separator.noise_prior.network._unet is not noise.network._unet


def test_priors_of_another_level_see_signals_at_their_own(mixture, lips):
    """D of signals c times as loud, c D(u/c; σ/c), comes to the same."""
    quiet, factor = make_speech_prior(), 2.0

    class Louder(torch.nn.Module):
        def __init__(self, prior):
            super().__init__()
            self.prior, self.network, self.condition = prior, prior.network, prior.condition
            self.sample_rate, self.sigma_data = prior.sample_rate, factor * prior.sigma_data

        def forward(self, u, sigma, lips=None):
            return factor * self.prior(u / factor, sigma / factor, lips)

    expected, found = (
        Separator(prior, "gaussian", SAMPLER, "cpu")(mixture, lips, sample_rate=8000)
        for prior in (quiet, Louder(quiet))
    )
    torch.testing.assert_close(found.speech, expected.speech, rtol=1e-4, atol=1e-5)


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device, and can only be brought from there."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        assert function in (torch.Tensor.to, torch.Tensor.ndim.__get__, torch.Tensor.device.__get__)
        if function == torch.Tensor.device.__get__:
            return torch.device("meta")
        found = super().__torch_function__(function, types, arguments, keywords or {})
        return found.as_subclass(torch.Tensor) if isinstance(found, torch.Tensor) else found


def test_inputs_on_any_device_outputs_on_that_of_the_mixture(mixture, lips):
    config = replace(SAMPLER, num_steps=2, num_samples=2)
    separator = Separator(make_speech_prior(), make_noise_prior(), config, device="cpu")
    result = separator(mixture.as_subclass(Elsewhere), lips, sample_rate=8000)
    for tensor in (result.speech, result.noise, result.spread, *result.trace.values()):
        assert tensor.device.type == "meta"
