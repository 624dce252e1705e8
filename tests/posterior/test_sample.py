"""All samplers against exact posterior samples of Gaussian sources; orders of convergence, batches,
calls, callbacks, divergence.

A broken sampler may well raise SI-SDR (a posterior mean does), so levels and residual count, too.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from davss import si_sdr
from davss.config import SamplerConfig
from davss.posterior import sample
from davss.posterior.steps import standard_normal
from tests.posterior import oracle

LEVELS = torch.tensor(oracle.LEVELS, dtype=torch.float64)

# Every branch of every sampler, for what must hold whatever the quality.
VARIANTS = {
    "dps": {},
    "dps-heun": {"order": 2},
    "dps-consistency": {"consistency": True, "num_samples": 2},
    "daps": {"name": "daps"},
    "daps-measured": {"name": "daps", "shares": "measured"},
    "daps-mean": {"name": "daps", "inner_noise": 0.0},
    "pseudo": {"name": "pseudo"},
}
every_variant = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())


def generators(*seeds):
    return [torch.Generator().manual_seed(1000 + seed) for seed in seeds]


def draw_from(mixture, settings, denoise=oracle.denoise, callback=None):
    """Sources drawn with `settings`, item b from generator b."""
    config = SamplerConfig(**settings)
    return sample(denoise, mixture, 3, config, generators(*range(len(mixture))), callback)


def residual_db(mixture, sources):
    rest = mixture - sources.sum(dim=1)
    return 10 * torch.log10(rest.square().sum() / mixture.square().sum()).item()


def above_exact(drawn, sources, draws=8):
    """SI-SDR (3,) above that of exact posterior samples, which is known to a few hundredths of a
    dB from several draws.
    """
    mixture = sources.sum(dim=1)
    exact = [si_sdr(oracle.posterior_sample(mixture, 50 + i), sources) for i in range(draws)]
    return (si_sdr(drawn, sources) - torch.stack(exact).mean(dim=0)).mean(dim=0)


def relative_levels(drawn):
    return drawn.square().mean(dim=(0, 2)).sqrt() / LEVELS


@dataclass(frozen=True)
class Expected:
    """Quality of a sampler: of a right one zeros and ones, else what its approximation is known to
    cost (docs/benchmarks.md), within bounds that a defect leaves.
    """

    residual: float
    above: tuple[float, float, float] = (0, 0, 0)
    within: float = 0.5
    levels: tuple[float, float, float] = (1, 1, 1)
    levels_within: float = 0.05


def case(label, expected, mixtures=8, slow=False, **settings):
    marks = [pytest.mark.slow] if slow else []
    settings = {"num_steps": 200, **settings}
    return pytest.param(settings, expected, mixtures, id=label, marks=marks)


CASES = [
    case(
        "dps",
        Expected(-28, (0.7, 0.4, 0.2), levels_within=0.1),
        mixtures=4,
        num_steps=100,
        s_churn=10.0,
    ),
    case("dps-churn-30", Expected(-30, levels_within=0.1, within=0.7), slow=True, s_churn=30.0),
    case(
        "dps-heun",
        Expected(-28, (0.5, 0.2, 0.0), levels_within=0.1),
        slow=True,
        num_steps=100,
        s_churn=10.0,
        order=2,
    ),
    case("daps", Expected(-35), name="daps"),
    # where the denoiser says itself how sure it is, a fifth of the steps is enough
    case(
        "daps-measured",
        Expected(-35, within=0.3, levels_within=0.02),
        num_steps=40,
        name="daps",
        shares="measured",
    ),
    case(
        "daps-mean-seeking",
        Expected(-35, (1.2, 1.2, 1.8), levels=(0.93, 0.92, 0.85)),
        num_steps=100,
        name="daps",
        inner_noise=0.0,
    ),
    # û_j's error is taken for u_j's, which counts the prior twice: between a sample and the mean
    case("pseudo", Expected(-50, (1.9, 2.2, 2.2), levels=(0.69, 0.68, 0.73)), name="pseudo"),
    case(
        "pseudo-churn",
        Expected(-45, (-0.2, -0.1, 0.1), levels=(0.88, 0.87, 0.93)),
        name="pseudo",
        s_churn=20.0,
    ),
]


@pytest.mark.parametrize(("settings", "expected", "mixtures"), CASES)
def test_agrees_with_exact_posterior_samples(settings, expected, mixtures):
    sources = oracle.draw_sources(mixtures, seed=1)
    drawn = draw_from(sources.sum(dim=1), settings)
    above, levels = above_exact(drawn, sources), relative_levels(drawn)
    assert (above - above.new_tensor(expected.above)).abs().max() < expected.within, above
    off = (levels - levels.new_tensor(expected.levels)).abs().max()
    assert off < expected.levels_within, levels
    assert residual_db(sources.sum(dim=1), drawn) < expected.residual


@pytest.mark.parametrize("name", ["dps", "pseudo"])
def test_consistency_leaves_no_residual(name):
    mixture = oracle.draw_sources(2, seed=5).sum(dim=1)
    settings = {"name": name, "num_steps": 5}
    assert residual_db(mixture, draw_from(mixture, settings)) > -60
    assert residual_db(mixture, draw_from(mixture, {**settings, "consistency": True})) < -250


def test_mean_of_draws_is_nearer_than_a_draw():
    sources = oracle.draw_sources(2, seed=1)
    settings = {"name": "daps", "num_steps": 80}
    one = draw_from(sources.sum(dim=1), settings)
    mean = draw_from(sources.sum(dim=1), {**settings, "num_samples": 3})
    assert (si_sdr(mean, sources) - si_sdr(one, sources)).mean() > 1


def ode_error(num_steps, settings):
    """Relative error of the prior's probability-flow ODE (ζ = 0), which for a Gaussian source
    scales every frequency by √((S + σ²)/(S + σ0²)).
    """
    mixture = torch.zeros(1, oracle.LENGTH, dtype=torch.float64)
    config = SamplerConfig(num_steps=num_steps, zeta=0.0, **settings)
    drawn = sample(oracle.denoise, mixture, 3, config, generators(0))
    noise = config.sigma_max * standard_normal(mixture, 3, generators(0))
    power, end = oracle.spectra(), config.sigma_min**2
    scale = ((power + end) / (power + config.sigma_max**2)).sqrt() * power / (power + end)
    exact = torch.fft.irfft(torch.fft.rfft(noise) * scale, n=oracle.LENGTH)
    return ((drawn - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(
    ("settings", "order"),
    [({}, 1), ({"order": 2}, 2)],
    ids=["euler", "heun"],
)
def test_order_of_convergence(settings, order):
    # one level more than steps, so that twice the steps is half of each
    measured = math.log2(ode_error(61, settings) / ode_error(121, settings))
    assert measured == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("batch", [(0, 1, 2, 3), (3, 2, 1, 0)])
@every_variant
def test_batch_changes_no_bit(settings, batch):
    mixture = oracle.draw_sources(4, seed=5).sum(dim=1)
    config = SamplerConfig(num_steps=4, s_churn=10, **settings)
    together = sample(oracle.denoise, mixture[list(batch)], 3, config, generators(*batch))
    for row, b in enumerate(batch):
        alone = sample(oracle.denoise, mixture[b : b + 1], 3, config, generators(b))
        assert torch.equal(alone[0], together[row])


def count(settings):
    """Forward and backward calls of the denoiser in one draw."""
    calls = {"forward": 0, "backward": 0}

    def denoise(u, sigma):
        calls["forward"] += 1
        if u.requires_grad:
            u.register_hook(lambda gradient: calls.update(backward=calls["backward"] + 1))
        return oracle.denoise(u, sigma)

    draw_from(oracle.draw_sources(1, seed=5).sum(dim=1), settings, denoise)
    return calls["forward"], calls["backward"]


@pytest.mark.parametrize(("order", "expected"), [(1, 5), (2, 9)])
def test_one_forward_and_one_backward_per_step(order, expected):
    # the last step returns its estimate and moves nothing: no gradient
    assert count({"num_steps": 5, "order": order}) == (expected, expected - 1)


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({"name": "daps"}, 5),
        ({"name": "pseudo"}, 5),
    ],
)
def test_no_gradient_goes_through_the_network(settings, calls):
    seen = []

    def denoise(u, sigma):
        seen.append(torch.is_grad_enabled() or u.requires_grad)
        return oracle.denoise(u, sigma)

    mixture = oracle.draw_sources(1, seed=5).sum(dim=1)
    with torch.enable_grad():
        draw_from(mixture, {"num_steps": 5, **settings}, denoise)
    assert seen == [False] * calls


@every_variant
def test_callback_sees_every_step_and_changes_nothing(settings):
    steps = []
    mixture = oracle.draw_sources(2, seed=5).sum(dim=1)
    settings = {"num_steps": 5, **settings}
    watched = draw_from(mixture, settings, callback=steps.append)
    assert [s.step for s in steps] == list(range(5)) * settings.get("num_samples", 1)
    for step in steps:
        assert step.u.shape == step.denoised.shape == (2, 3, oracle.LENGTH)
        assert step.likelihood.shape == (2,)
        assert step.prior_step.shape == step.likelihood_step.shape == (2, 3)
    assert torch.equal(watched, draw_from(mixture, settings))


def test_likelihood_moves_a_source_by_its_budget():
    """RMS ζ |Δσ| a step, no more and no less."""
    steps = []
    settings = {"num_steps": 8, "zeta": 0.3}
    draw_from(oracle.draw_sources(2, seed=5).sum(dim=1), settings, callback=steps.append)
    sigmas = [step.sigma for step in steps]
    for step, sigma_next in zip(steps, sigmas[1:], strict=False):
        budget = 0.3 * (step.sigma - sigma_next)
        budgets = torch.full((2, 3), budget, dtype=torch.float64)
        torch.testing.assert_close(step.likelihood_step, budgets, rtol=1e-4, atol=0)


@every_variant
def test_a_diverging_item_spoils_no_other(settings):
    mixture = oracle.draw_sources(2, seed=5).sum(dim=1)
    settings = {"num_steps": 5, **settings}

    def denoise(u, sigma):
        broken = torch.tensor([1.0, float("nan")], dtype=u.dtype)[:, None, None]
        return oracle.denoise(u, sigma) * broken

    good, both = draw_from(mixture, settings), draw_from(mixture, settings, denoise)
    assert torch.equal(both[0], good[0])
    assert not torch.isfinite(both[1]).any()
