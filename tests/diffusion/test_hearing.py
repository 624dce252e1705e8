"""What priors hear in training: own sounds, foreign ones and both side by side, in any noise."""

import math

import pytest
import torch

from davss.config import DiffusionConfig, ForeignConfig, parse
from davss.diffusion.hearing import HOP, N_FFT, expected_error, hear
from davss.diffusion.loss import training_loss
from davss.errors import DavssError
from davss.networks import spectrum

SIZE, T, SIGMA_DATA = 64, 4000, 0.05


def draws(size: int = SIZE, seed: int = 0) -> dict[str, torch.Tensor]:
    """Own sounds that are loud in the first half, foreign ones that are loud in low bands."""
    generator = torch.Generator().manual_seed(seed)
    clean = SIGMA_DATA * torch.randn(size, T, generator=generator)
    clean[:, T // 2 :] /= 10
    foreign = SIGMA_DATA * torch.randn(size, 2, T, generator=generator).cumsum(-1) / 10
    uniforms = torch.rand(size, dtype=torch.float64, generator=generator)
    noise = torch.randn(size, T, generator=generator)
    sigma = 0.1 * torch.ones(size)
    return dict(clean=clean, foreign=foreign, noise=noise, uniforms=uniforms, sigma=sigma)


def power(signal: torch.Tensor) -> torch.Tensor:
    return spectrum.stft(signal, N_FFT, HOP).abs().square()


def test_sounds_are_own_or_foreign_or_side_by_side():
    given = draws(512)
    config = ForeignConfig(negatives=0.25, splices=0.25, sigma=(0.02, 0.6))
    heard = hear(**given, config=config, sigma_data=SIGMA_DATA)
    clean, foreign = given["clean"], given["foreign"][:, 0]
    plain = (heard.own == clean).all(1)
    spliced = ~plain & ~heard.is_foreign
    assert torch.equal(heard.sound[plain], clean[plain]) and not heard.is_coloured.any()
    assert torch.equal(heard.sound[heard.is_foreign], foreign[heard.is_foreign])
    assert not heard.own[heard.is_foreign].any()
    for role in (heard.is_foreign, spliced):
        assert 0.18 < role.float().mean() < 0.32
    # Side by side: where the one is, the other is not, but for the windows' edges.
    rest = heard.sound - heard.own
    both = torch.minimum(power(rest) / power(foreign), power(heard.own) / power(clean))
    assert both[spliced].clamp(max=1).median() < 0.01
    level = heard.variance.sqrt()
    assert level[~heard.is_foreign].sub(0.1).abs().max() < 1e-6
    assert 0.02 <= level[heard.is_foreign].min() < 0.03 and 0.45 < level.max() <= 0.6


def test_noise_has_the_spectrum_of_the_other_sound():
    given, snr_db = draws(), (3.0, 3.0)
    config = ForeignConfig(coloured=1.0, snr_db=snr_db)
    heard = hear(**given, config=config, sigma_data=SIGMA_DATA)
    noise = heard.noisy - heard.sound
    ratio = power(noise)[:, 4:-4].mean() / heard.variance[:, 4:-4].mean()
    assert 10 * ratio.log10().abs() < 0.5
    level = 10 * torch.log10(heard.variance.mean((1, 2)) / SIGMA_DATA**2)
    assert level.min() > -3.01 and level.max() < -3 + 10 * math.log10(1.11)  # and a floor
    like = torch.corrcoef(
        torch.stack(
            [heard.variance.mean(2).log(), power(given["foreign"][:, 1]).mean(2).log()]
        ).flatten(1)
    )
    assert like[0, 1] > 0.7
    errors = 10 * torch.log10(heard.told / heard.variance)
    assert 1 < errors.std() < 5 and errors.mean().abs() < 1


def test_told_what_is_stationary():
    config = ForeignConfig(coloured=1.0, quiet=1.0)
    heard = hear(**draws(), config=config, sigma_data=SIGMA_DATA)
    assert torch.equal(heard.told, heard.told[:, :, :1].expand_as(heard.told))


def test_an_item_is_a_function_of_its_draws():
    config = ForeignConfig(negatives=0.2, splices=0.3, coloured=0.7, quiet=0.4)
    given = draws()
    whole = hear(**given, config=config, sigma_data=SIGMA_DATA)
    part = hear(
        **{name: value[40:44] for name, value in given.items()},
        config=config,
        sigma_data=SIGMA_DATA,
    )
    for found, expected in zip(part, whole, strict=True):
        torch.testing.assert_close(found, expected[40:44])


@pytest.mark.parametrize(("gain", "expected"), [(0.0, 0.0), (0.4, 0.8)])
def test_loss_of_foreign_sounds(gain, expected):
    """0 for one who rejects all, ½ w/σ² for one who keeps w/(w + σ²) of white sounds of power w."""

    class Prior:
        network = type("Network", (), {"coloured": False})

        def __call__(self, u, sigma, modulations):
            w = SIGMA_DATA**2
            return gain * w / (w + sigma[:, None] ** 2) / 0.4 * u

    given = draws()
    foreign = SIGMA_DATA * torch.randn(SIZE, 2, T)
    uniforms = torch.rand(SIZE, 3, dtype=torch.float64)
    config = ForeignConfig(negatives=0.999999, sigma=(0.05 / 0.8**0.5 * 0.79, 0.05))
    noise = torch.randn(SIZE, T)
    loss = training_loss(
        Prior(), given["clean"], None, None, DiffusionConfig(), noise, uniforms, foreign, config
    )
    assert loss.mean() == pytest.approx(expected / 1.6, rel=0.25)


def test_silence_has_a_loss():
    heard = hear(**draws(), config=ForeignConfig(coloured=1.0), sigma_data=SIGMA_DATA)
    silent = heard._replace(sound=torch.zeros_like(heard.sound))
    assert (expected_error(silent, SIGMA_DATA) > 0).all()


def test_sounds_without_any_sample_make_white_noise():
    given = draws()
    given["foreign"][:, 1] = 0.0
    heard = hear(**given, config=ForeignConfig(coloured=1.0), sigma_data=SIGMA_DATA)
    assert expected_error(heard, SIGMA_DATA).min() > 1e-8
    assert torch.isfinite(heard.told).all() and heard.told.min() > 0


def test_some_items_are_own():
    with pytest.raises(DavssError, match=r"splices' = 0.5: must leave items"):
        parse(ForeignConfig, {"negatives": 0.5, "splices": 0.5}, "foreign")
