"""A prior preconditioned by a spectrum: what it is without training, and how it learns."""

import math
from dataclasses import replace

import pytest
import torch

from davss.diffusion import coloured
from davss.diffusion.loss import training_loss
from davss.diffusion.prior import NoisePrior, load_prior, save_prior
from davss.errors import DavssError
from tests.priors import INFO, make_noise_prior

T = 1600


def make_coloured(scale: float = 0.0) -> NoisePrior:
    """A coloured prior at 8 kHz whose network says zero, or near it."""
    network = replace(INFO.network, spectral=True, coloured=True)
    torch.manual_seed(2)
    prior = NoisePrior(replace(INFO, network=network))
    for parameter in prior.network.output_layer.parameters():
        torch.nn.init.normal_(parameter, std=scale) if scale else torch.nn.init.zeros_(parameter)
    return prior


def coloured_noise(spectrum: torch.Tensor, batch: int) -> torch.Tensor:
    """Gaussian signals (B, T) of power `spectrum` (T/2 + 1,)."""
    white = torch.fft.rfft(torch.randn(batch, T))
    return torch.fft.irfft(white * spectrum.sqrt(), n=T)


def test_without_its_network_it_is_the_gaussian_noise_model():
    prior, u = make_coloured(), torch.randn(2, T)
    sigma = torch.tensor([0.05, 0.2])
    spectrum = torch.rand(2, prior.network.num_bins) / 100 + coloured.QUIETEST * 0.2**2
    gain = spectrum / (spectrum + sigma[:, None] ** 2)
    expected = prior.network.istft(gain[:, None, :, None] * prior.network.stft(u), T)
    torch.testing.assert_close(prior(u, sigma, spectrum=spectrum), expected)


def test_of_a_white_spectrum_it_is_edms_denoiser():
    prior, u, sigma = make_coloured(0.1), torch.randn(2, T), torch.tensor([0.05, 0.2])
    white = torch.full((2, prior.network.num_bins), prior.sigma_data**2)
    torch.testing.assert_close(prior(u, sigma), prior(u, sigma, spectrum=white))
    torch.nn.init.zeros_(prior.network.output_layer.weight)
    torch.nn.init.zeros_(prior.network.output_layer.bias)
    gain = 0.05**2 / (0.05**2 + sigma**2)
    torch.testing.assert_close(prior(u, sigma), gain[:, None] * u)


def test_spectra_of_white_noise_are_its_power():
    network, noise = make_coloured().network, 0.1 * torch.randn(1, 100 * T)
    for spectrum in (coloured.own_spectrum, coloured.blind_spectrum):
        torch.testing.assert_close(
            spectrum(network, noise)[:, 2:-2].mean(), torch.tensor(0.01), rtol=0.05, atol=0
        )


def test_a_loud_moment_does_not_change_the_blind_spectrum():
    prior, noise = make_coloured(), 0.1 * torch.randn(1, 10 * T)
    event = noise.clone()
    event[:, T : 3 * T] += torch.randn(1, 2 * T)
    quiet, loud = (coloured.blind_spectrum(prior.network, x).mean() for x in (noise, event))
    assert loud < 1.5 * quiet
    seen = prior.of_recording(event)(event, torch.tensor([0.1]))
    torch.testing.assert_close(
        seen,
        prior(event, torch.tensor([0.1]), spectrum=coloured.blind_spectrum(prior.network, event)),
    )


def test_muted_moments_do_not_change_the_blind_spectrum():
    network, noise = make_coloured().network, 0.1 * torch.randn(2, 10 * T)
    noise[1, 4 * T :] = 0
    whole, muted = coloured.blind_spectrum(network, noise).mean(dim=1)
    assert 0.8 < muted / whole < 1.2
    power = coloured.power(network, noise[:1])
    expected = power.kthvalue(round(0.3 * power.shape[-1])).values / -math.log(0.7)
    assert torch.equal(coloured.blind_spectrum(network, noise[:1]), expected)


def test_the_loss_without_its_network_is_that_of_the_wiener_filter():
    """One, were the spectrum known; its errors cost some."""
    prior = make_coloured()
    noise = 0.05 * coloured_noise(torch.linspace(2, 0.05, T // 2 + 1) ** 2, 64)
    uniforms = torch.rand(64, 3, dtype=torch.float64)
    uniforms[:, 0] = 0.5
    loss = training_loss(
        prior, noise, None, None, INFO.diffusion, torch.randn_like(noise), uniforms
    )
    assert 0.9 < loss.mean() < 1.5


def test_errors_of_spectra_are_a_function_of_the_draw_alone():
    network, noise = make_coloured().network, torch.randn(3, T)
    uniforms = torch.tensor([0.7, 0.2, 0.7], dtype=torch.float64)
    spectra = coloured.uncertain_spectrum(network, noise, noise, uniforms)
    alone = coloured.uncertain_spectrum(network, noise[2:], noise[2:], uniforms[2:])
    torch.testing.assert_close(spectra[2:], alone)
    ratio = 10 * torch.log10(spectra / coloured.own_spectrum(network, noise))
    torch.testing.assert_close(ratio[0], ratio[2], rtol=1e-4, atol=1e-4)
    assert ratio[0].abs().max() < 12


def test_it_is_stored_and_read(tmp_path):
    prior = make_coloured(0.1)
    save_prior(prior, tmp_path / "prior")
    read, u, sigma = load_prior(tmp_path / "prior"), torch.randn(1, T), torch.tensor([0.1])
    torch.testing.assert_close(read(u, sigma), prior(u, sigma))


def test_a_prior_trained_without_spectra_takes_none():
    u, sigma = torch.randn(1, T), torch.tensor([0.1])
    with pytest.raises(DavssError, match="trained without spectra"):
        make_noise_prior()(u, sigma, spectrum=torch.ones(1, 32))
    assert make_noise_prior().of_recording(u)(u, sigma).shape == u.shape


def test_coloured_noise_meets_its_wiener_filter():
    """On a grid of its own, and white noise given as variances is white noise."""
    prior, u = make_coloured(), torch.randn(2, T)
    variance = 0.01 * torch.rand(2, 40, 1).expand(-1, -1, 30)
    spectrum = torch.full((2, prior.network.num_bins), 0.02)
    grid = coloured.variance(variance, prior.network.num_bins, 1)[:, None]
    torch.testing.assert_close(grid[:, 0, [0, -1]], variance[:, [0, -1], :1])
    expected = prior.network.istft(0.02 / (0.02 + grid) * prior.network.stft(u), T)
    torch.testing.assert_close(prior(u, variance, spectrum=spectrum), expected)

    prior, sigma = make_coloured(0.1), torch.tensor([0.05, 0.2])
    white = sigma.square()[:, None, None].expand(-1, 40, 30)
    torch.testing.assert_close(
        prior(u, white, spectrum=spectrum), prior(u, sigma, spectrum=spectrum)
    )
    torch.testing.assert_close(prior(u, white), prior(u, sigma))
