"""Noise models: the M-step against numpy, the filter against the exact denoiser, the fit against
known spectra and against speech, batches, gradients, silence.
"""

import numpy as np
import pytest
import torch

from davss import si_sdr
from davss.posterior.noise_models import (
    GaussianNoise,
    NmfNoise,
    multiplicative_update,
    stft,
    wiener,
)
from tests.posterior import oracle

RATE = 16_000
N_FFT = 512
MODELS = [NmfNoise, GaussianNoise]


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise(batch, seed, dtype=torch.float64):
    """Coloured noise (batch, T), RMS 0.05: the oracle's low source."""
    return oracle.draw_sources(batch, seed)[:, 0].to(dtype)


def tone_bursts(length=oracle.LENGTH, level=0.05):
    """A "speech" (T,) of harmonics that sound a third of the time, RMS near `level`."""
    t = torch.arange(length, dtype=torch.float64) / RATE
    tones = sum(torch.sin(2 * torch.pi * f * t) / f for f in range(220, 3300, 220))
    bursts = ((t * 6) % 1 < 1 / 3) * tones
    return level * bursts / bursts.std()


def factors(seed, bins=9, rank=3, frames=14):
    generator = torch.Generator().manual_seed(seed)
    w = torch.rand(2, bins, rank, generator=generator, dtype=torch.float64) + 0.1
    h = torch.rand(2, rank, frames, generator=generator, dtype=torch.float64) + 0.1
    power = torch.rand(2, bins, frames, generator=generator, dtype=torch.float64) ** 3 + 1e-4
    return power, w, h


def decibel(ratio):
    return 10 * torch.log10(ratio)


def anneal(model, mixture, speech=None, num_steps=60):
    """Take a model through a reverse pass whose speech estimates, the exact speech, come up as σ
    falls.
    """
    speech = torch.zeros_like(mixture) if speech is None else speech
    for sigma in torch.logspace(-0.3, -3, num_steps, dtype=torch.float64):
        share = 0.05**2 / (0.05**2 + sigma**2)
        model(mixture, sigma.expand(len(mixture)), mixture - share * speech)
    return model


def test_update_is_the_one_written_out():
    power, w, h = (x[0].numpy() for x in factors(seed=0))
    found_w, found_h = multiplicative_update(*(torch.from_numpy(x) for x in (power, w, h)))
    bins, rank, frames = *w.shape, h.shape[1]
    model, new_w = w @ h, np.empty_like(w)
    for f in range(bins):
        for r in range(rank):
            above = sum(power[f, n] / model[f, n] ** 2 * h[r, n] for n in range(frames))
            new_w[f, r] = w[f, r] * above / sum(h[r, n] / model[f, n] for n in range(frames))
    model, new_h = new_w @ h, np.empty_like(h)
    for r in range(rank):
        for n in range(frames):
            above = sum(power[f, n] / model[f, n] ** 2 * new_w[f, r] for f in range(bins))
            new_h[r, n] = h[r, n] * above / sum(new_w[f, r] / model[f, n] for f in range(bins))
    total = new_w.sum(axis=0)
    np.testing.assert_allclose(found_w, new_w / total, rtol=1e-12)
    np.testing.assert_allclose(found_h, new_h * total[:, None], rtol=1e-12)


def itakura_saito(power, model):
    """Divergence Σ P/V − ln(P/V) − 1 per item: up to a constant −ln p of the STFT."""
    ratio = power / model
    return (ratio - ratio.log() - 1).sum(dim=(-2, -1))


@pytest.mark.parametrize("kind", ["random", "white", "coloured", "speech"])
def test_updates_do_not_increase_the_divergence(kind):
    power, w, h = factors(seed=1)
    if kind != "random":
        signal = torch.randn(2, oracle.LENGTH, generator=generators(2)[0], dtype=torch.float64)
        signal = signal if kind == "white" else oracle.color(signal, oracle.spectra()[0])
        signal = signal + (tone_bursts() if kind == "speech" else 0)
        power = stft(signal, N_FFT).abs().square()
        _, w, h = factors(seed=3, bins=power.shape[1], rank=4, frames=power.shape[2])
    values = [itakura_saito(power, w @ h)]
    for _ in range(50):
        w, h = multiplicative_update(power, w, h)
        values.append(itakura_saito(power, w @ h))
        torch.testing.assert_close(w.sum(dim=-2), torch.ones_like(w[:, 0]))
    drops = -torch.stack(values).diff(dim=0)
    assert (drops > -1e-9 * values[0]).all()
    assert (values[-1] < 0.8 * values[0]).all()


def test_updates_find_a_low_rank_variance():
    generator = torch.Generator().manual_seed(5)
    w, h = (torch.rand(s, generator=generator).double() ** 2 + 0.01 for s in ((257, 2), (2, 400)))
    exponential = torch.empty(257, 400, dtype=torch.float64).exponential_(generator=generator)
    _, found_w, found_h = factors(seed=6, bins=257, rank=2, frames=400)
    for _ in range(60):
        found_w, found_h = multiplicative_update((w @ h) * exponential, found_w, found_h)
    error = decibel(found_w @ found_h / (w @ h))
    assert error.square().mean().sqrt() < 1.0  # dB; a single periodogram errs by 5.6


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.2])
def test_filter_is_the_exact_denoiser_of_stationary_noise(sigma):
    generator = torch.Generator().manual_seed(7)
    clean = oracle.draw_sources(4, seed=8)
    u = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    levels = torch.full((4,), sigma, dtype=torch.float64)
    exact = oracle.denoise(u, levels)
    grid = torch.linspace(0, oracle.LENGTH // 2, N_FFT // 2 + 1).round().long()
    for j, power in enumerate(oracle.spectra()):
        estimate = wiener(u[:, j], levels, power[grid][None, :, None].expand(4, -1, 1), N_FFT)
        loss = si_sdr(exact[:, j], clean[:, j]) - si_sdr(estimate, clean[:, j])
        assert loss.mean() < 0.1
        assert decibel(estimate.square().mean() / exact[:, j].square().mean()).abs() < 0.1
        assert decibel((estimate - exact[:, j]).square().mean() / 0.05**2) < -30


def test_filter_scales_white_noise_as_a_sample():
    white = 0.05 * torch.randn(4, 64_000, generator=generators(9)[0])
    variance = stft(white, N_FFT).abs().square()
    assert abs(variance.mean().item() / 0.05**2 - 1) < 0.01
    half = wiener(white, torch.full((4,), 0.05), torch.full((4, 257, 1), 0.05**2), N_FFT)
    torch.testing.assert_close(half, white / 2)


@pytest.mark.parametrize("model", MODELS)
def test_recovers_the_spectrum_below_sparse_speech(model):
    clean, speech = noise(4, seed=10), tone_bursts().expand(4, -1)
    fitted = anneal(model(clean + speech, RATE, generators(*range(4))), clean + speech, speech)
    truth = torch.nn.functional.interpolate(oracle.spectra()[None, :1], fitted.evidence.num_bins)
    found = fitted.variance.mean(dim=(0, 2))
    loud = truth[0, 0] > 0.01 * truth.max()
    loud[0] = False  # real and not complex, so its quantile differs
    assert decibel(found / truth[0, 0])[loud].abs().max() < 3
    assert decibel(found[loud].sum() / truth[0, 0][loud].sum()).abs() < 1


@pytest.mark.parametrize("model", MODELS)
def test_does_not_eat_the_speech_before_it_is_estimated(model):
    """With speech estimates of nothing at high σ, V stays near the noise, far below the mixture."""
    clean, speech = noise(4, seed=11), tone_bursts(level=0.1).expand(4, -1)
    mixture = clean + speech
    fitted = model(mixture, RATE, generators(*range(4)))
    for sigma in torch.logspace(-0.3, -1, 30, dtype=torch.float64):
        fitted(mixture, sigma.expand(4), mixture)
    power = stft(mixture, N_FFT).abs().square().mean()
    level, true_level = fitted.variance.mean(), stft(clean, N_FFT).abs().square().mean()
    assert decibel(level / true_level) < 3.5
    assert decibel(power / level) > 3.5


def test_gaussian_stays_below_the_quiet_moments_of_the_mixture():
    mixture = noise(2, seed=12)
    model = GaussianNoise(mixture, RATE, generators(0, 1))
    blind = model.variance
    model(mixture, torch.full((2,), 1e-4), 3 * mixture)
    assert (model.variance <= blind).all()


def test_nmf_follows_noise_that_changes():
    loud = torch.ones(oracle.LENGTH, dtype=torch.float64)
    loud[oracle.LENGTH // 2 :] = 4
    mixture = noise(2, seed=13) * loud
    variance = anneal(NmfNoise(mixture, RATE, generators(0, 1)), mixture, num_steps=80).variance
    half = variance.shape[-1] // 2
    change = decibel(variance[..., half + 3 :].mean() / variance[..., : half - 2].mean())
    assert abs(change - decibel(torch.tensor(16.0))) < 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", MODELS)
def test_items_do_not_influence_each_other(model, dtype):
    mixture = torch.cat([noise(1, 14, dtype), 3 * noise(1, 15, dtype), 0 * noise(1, 16, dtype)])
    sigma = torch.tensor([0.3, 0.02, 0.001], dtype=dtype)
    together = model(mixture, RATE, generators(0, 1, 2))
    alone = [model(mixture[b : b + 1], RATE, generators(b)) for b in range(3)]
    for _ in range(10):
        found = together(mixture, sigma, mixture / 2)
        for b, single in enumerate(alone):
            one = slice(b, b + 1)
            expected = single(mixture[one], sigma[one], mixture[one] / 2)
            tolerance = 1e-5 if dtype == torch.float32 else 1e-12
            torch.testing.assert_close(found[one], expected, rtol=tolerance, atol=0.05 * tolerance)


@pytest.mark.parametrize("model", MODELS)
def test_gradient_flows_to_the_source_only(model):
    mixture = noise(1, seed=17)[:, :72]
    u = mixture.clone().requires_grad_()
    residual = (mixture / 2).requires_grad_()
    fitted = model(mixture, 1000, generators(0))
    sigma = torch.tensor([0.03], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(fitted(u, sigma, residual).square().sum(), u)
    assert gradient.abs().max() > 0
    assert not fitted.variance.requires_grad
    output = fitted(mixture, sigma, residual)
    assert not output.requires_grad
    assert torch.autograd.gradcheck(lambda x: wiener(x, sigma, fitted.variance, 32), u)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", MODELS)
def test_silence_is_finite(model, dtype):
    signal = noise(3, 18, dtype)
    mixture = torch.stack([0 * signal[0], signal[1], signal[2]])
    mixture[1, oracle.LENGTH // 4 :] = 0  # most of a recording is digital silence
    residual = torch.stack([signal[0], signal[1], 0 * signal[2]])  # speech estimates took it all
    fitted = model(mixture, RATE, generators(0, 1, 2))
    for sigma in (0.5, 0.01, 1e-4, 0.0) * 5:
        denoised = fitted(signal, torch.full((3,), sigma, dtype=dtype), residual)
        assert torch.isfinite(denoised).all()
        assert (fitted.variance > 0).all()
        assert torch.isfinite(fitted.variance).all()


@pytest.mark.parametrize("muted", ["zeros", "dither", "offset"])
@pytest.mark.parametrize("model", MODELS)
def test_muted_moments_say_nothing_of_the_noise(model, muted):
    """A call or a noise gate that is shut half of the time: the noise is that of the other half."""
    whole, gap = noise(1, 22), torch.arange(oracle.LENGTH) >= oracle.LENGTH // 2
    shut = {"zeros": 0.0, "offset": 0.01, "dither": 1e-5 * noise(1, 23)}[muted]
    mixture = torch.where(gap, shut, whole + 0.01 * (muted == "offset"))
    mixture = mixture - mixture.mean()  # as a separator has it
    evidence = [model(y, RATE, generators(0)).evidence for y in (whole, mixture)]
    true, found = (one.scale * one.blind for one in evidence)
    assert decibel(found.mean() / true.mean()).abs() < 2
    assert decibel(found[:, 4:] / true[:, 4:]).abs().mean() < 2


@pytest.mark.parametrize("model", MODELS)
def test_scale_of_everything_is_free(model):
    mixture, sigma = noise(1, seed=19), torch.tensor([0.05], dtype=torch.float64)
    small, large = (model(a * mixture, RATE, generators(0)) for a in (1, 16))
    for _ in range(5):
        expected = small(mixture, sigma, mixture / 2)
        found = large(16 * mixture, 16 * sigma, 8 * mixture)
        torch.testing.assert_close(found, 16 * expected)


def test_generators_determine_the_result():
    mixture, sigma = noise(2, seed=20), torch.full((2,), 0.01, dtype=torch.float64)
    runs = [
        NmfNoise(mixture, RATE, generators(*seeds))(mixture, sigma, mixture)
        for seeds in ((1, 2), (1, 2), (3, 2))
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0][0], runs[2][0])
    assert torch.equal(runs[0][1], runs[2][1])


@pytest.mark.parametrize("rate, n_fft", [(8_000, 256), (16_000, 512), (48_000, 2048)])
def test_window_lasts_about_32_ms_at_any_rate_and_length(rate, n_fft):
    mixture = noise(1, seed=21)[:, :5_003]
    model = NmfNoise(mixture, rate, generators(0))
    assert model.evidence.n_fft == n_fft
    output = model(mixture, torch.zeros(1), mixture)
    torch.testing.assert_close(output, mixture)
