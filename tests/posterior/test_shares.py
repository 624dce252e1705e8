"""What a denoiser says about its own errors, against Gaussian sources where they are known."""

import pytest
import torch

from davss.posterior.shares import HOP, LOWEST, N_FFT, SHARES, color, split, stft, white_error
from tests.posterior import oracle

SIGMA = 0.05


def state(seed=3):
    """States (4, 3, T) at SIGMA and the sources in them."""
    sources = oracle.draw_sources(4, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(sources.shape, generator=generator, dtype=sources.dtype)
    return sources + SIGMA * noise, sources


def variance(shares):
    """The variance by a way of sharing, and the errors that it is of, (4, 3, T)."""
    u, sources = state()
    denoised = oracle.denoise(u, torch.full((len(u),), SIGMA, dtype=u.dtype))
    found = SHARES[shares](oracle.denoise, sources.sum(dim=1), u, denoised, SIGMA)
    return found, sources - denoised


@pytest.mark.parametrize("shares", ["measured", "offer"])
def test_the_variance_is_that_of_the_errors(shares):
    found, errors = variance(shares)
    # per source and band: means over items and frames, away from the ends
    expected = stft(errors).abs().square()[..., 4:-4].mean(dim=(0, 3))
    got = found[..., 4:-4].mean(dim=(0, 3))
    certain = expected > 0.2 * SIGMA**2  # below, what is left of σ² after a subtraction is noise
    ratio = got[certain] / expected[certain]
    assert certain.float().mean() > 0.3 and (10 * ratio.log10()).abs().mean() < 0.8
    low, middle = got[0], got[1]  # sources of a low and of a middle band
    assert low[13] > 4 * low[90] and middle[45] > 4 * middle[110]


@pytest.mark.parametrize("shares", SHARES)
def test_shares_add_up_to_what_is_missing(shares):
    missing = torch.randn(4, oracle.LENGTH, dtype=torch.float64)
    parts = split(missing, variance(shares)[0], 3)
    torch.testing.assert_close(parts.sum(dim=1), missing, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shares", SHARES)
def test_coloured_noise_has_the_variance(shares):
    found, _ = variance(shares)
    white = torch.randn(4, 3, oracle.LENGTH, dtype=torch.float64)
    power = stft(color(white, found)).abs().square().mean(dim=(0, 3))
    expected = found if isinstance(found, float) else found.mean(dim=(0, 3))
    assert (10 * (power / expected).log10()).abs().mean() < 0.5


def test_an_offer_is_judged_bin_by_bin():
    """Frames that lie behind the end of what a source keeps are none of its own, to the first."""
    border = 32 * HOP
    mixture = torch.randn(1, 2 * border, dtype=torch.float64)
    first = (torch.arange(2 * border) < border).double()

    def denoise(u, sigma):
        return u * torch.stack([first, 1 - first])

    nothing = torch.zeros(1, 2, 2 * border, dtype=torch.float64)
    before, after = SHARES["offer"](denoise, mixture, nothing, nothing, SIGMA)[0]
    frame = (border + N_FFT // 2) // HOP
    assert torch.allclose(before[:, frame], torch.tensor(LOWEST * white_error(SIGMA)).double())
    assert (after[:, frame] > 0.9 * SIGMA**2).all()
