"""What a denoiser says about its own errors, against Gaussian sources where they are known."""

import torch

from davss.config import SamplerConfig
from davss.posterior.uncertainty import inverse_stft, stft, uncertainty
from tests.posterior import oracle

SIGMA = 0.05


def state(seed=3):
    """States (4, 3, T) at SIGMA and the sources in them."""
    sources = oracle.draw_sources(4, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(sources.shape, generator=generator, dtype=sources.dtype)
    return sources + SIGMA * noise, sources


def measure(variance):
    u, sources = state()
    denoised = oracle.denoise(u, torch.full((len(u),), SIGMA, dtype=u.dtype))
    config = SamplerConfig(name="daps", variance=variance)
    return uncertainty(u, denoised, SIGMA, config), sources - denoised


def test_the_measured_variance_is_that_of_the_errors():
    found, errors = measure("measured")
    # per source and band: means over items and frames, away from the ends
    expected = stft(errors).abs().square()[..., 4:-4].mean(dim=(0, 3))
    got = found.measured[..., 4:-4].mean(dim=(0, 3))
    certain = expected > 0.2 * SIGMA**2  # below, what is left of σ² after a subtraction is noise
    ratio = got[certain] / expected[certain]
    assert certain.float().mean() > 0.3 and (10 * ratio.log10()).abs().mean() < 0.8
    low, middle = got[0], got[1]  # sources of a low and of a middle band
    assert low[13] > 4 * low[90] and middle[45] > 4 * middle[110]


def test_shares_add_up_to_what_is_missing():
    for variance in ("isotropic", "measured"):
        found, _ = measure(variance)
        missing = torch.randn(4, oracle.LENGTH, dtype=torch.float64)
        shares = found.share(missing)
        torch.testing.assert_close(shares.sum(dim=1), missing, rtol=0, atol=1e-10)
        partly = found.share(missing, sigma_y=0.05).sum(dim=1)
        assert partly.square().sum() < 0.9 * missing.square().sum()


def test_colored_noise_has_the_measured_variance():
    found, _ = measure("measured")
    white = torch.randn(4, 3, oracle.LENGTH, dtype=torch.float64)
    power = stft(found.color(white)).abs().square().mean(dim=(0, 3))
    expected = found.measured.mean(dim=(0, 3))
    assert (10 * (power / expected).log10()).abs().mean() < 0.5


def test_the_transform_is_inverted():
    signal = torch.randn(2, 3, 1234, dtype=torch.float64)
    torch.testing.assert_close(inverse_stft(stft(signal), length=1234), signal)
