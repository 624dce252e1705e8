"""Algorithm 1 against exact posterior samples of Gaussian sources; batches, calls, divergence."""

import pytest
import torch

from davss import si_sdr
from davss.config import SamplerConfig
from davss.posterior import sample
from tests.posterior import oracle

RMS = torch.tensor([0.05, 0.05, 0.03], dtype=torch.float64)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def residual_db(mixture, sources):
    rest = mixture - sources.sum(dim=1)
    return 10 * torch.log10(rest.square().sum() / mixture.square().sum()).item()


@pytest.mark.parametrize("churn", [10.0, 30.0])
def test_agrees_with_exact_posterior_samples(churn):
    sources = oracle.draw_sources(8, seed=1)
    mixture = sources.sum(dim=1)
    exact = oracle.posterior_sample(mixture, seed=2)
    config = SamplerConfig(num_steps=200, s_churn=churn)
    drawn = sample(oracle.denoise, mixture, 3, config, generators(*range(8)))
    difference = (si_sdr(drawn, sources) - si_sdr(exact, sources)).mean(dim=0)
    assert difference.abs().max() < 0.7
    deviation = drawn.square().mean(dim=(0, 2)).sqrt() / RMS
    assert (deviation - 1).abs().max() < 0.1
    assert residual_db(mixture, drawn) < -30


@pytest.mark.slow
def test_heun_agrees_too():
    sources = oracle.draw_sources(8, seed=3)
    mixture = sources.sum(dim=1)
    config = SamplerConfig(num_steps=80, s_churn=20, order=2)
    drawn = sample(oracle.denoise, mixture, 3, config, generators(*range(8)))
    exact = oracle.posterior_sample(mixture, seed=4)
    assert (si_sdr(drawn, sources) - si_sdr(exact, sources)).mean(dim=0).abs().max() < 1.0
    assert residual_db(mixture, drawn) < -30


def test_mean_of_draws_is_nearer_than_a_draw():
    sources = oracle.draw_sources(4, seed=1)
    mixture = sources.sum(dim=1)
    settings = {"num_steps": 40, "s_churn": 10}
    one = sample(oracle.denoise, mixture, 3, SamplerConfig(**settings), generators(*range(4)))
    config = SamplerConfig(**settings, num_samples=3)
    mean = sample(oracle.denoise, mixture, 3, config, generators(*range(4)))
    assert (si_sdr(mean, sources) - si_sdr(one, sources)).mean() > 1


@pytest.mark.parametrize("order", [1, 2])
def test_batch_changes_no_bit(order):
    mixture = oracle.draw_sources(4, seed=5).sum(dim=1)
    config = SamplerConfig(num_steps=6, s_churn=10, order=order)
    together = sample(oracle.denoise, mixture, 3, config, generators(0, 1, 2, 3))
    for b in (2, 0):
        alone = sample(oracle.denoise, mixture[b : b + 1], 3, config, generators(b))
        assert torch.equal(alone[0], together[b])
    flipped = sample(oracle.denoise, mixture.flip(0), 3, config, generators(3, 2, 1, 0))
    assert torch.equal(flipped.flip(0), together)


@pytest.mark.parametrize(("order", "expected"), [(1, 5), (2, 9)])
def test_one_forward_and_one_backward_per_step(order, expected):
    calls = {"forward": 0, "backward": 0}

    def denoise(u, sigma):
        calls["forward"] += 1
        if u.requires_grad:
            u.register_hook(lambda gradient: calls.update(backward=calls["backward"] + 1))
        return oracle.denoise(u, sigma)

    mixture = oracle.draw_sources(1, seed=5).sum(dim=1)
    sample(denoise, mixture, 3, SamplerConfig(num_steps=5, order=order), generators(0))
    # the last step returns its estimate and moves nothing: no gradient
    assert calls == {"forward": expected, "backward": expected - 1}


def test_callback_sees_every_step():
    steps = []
    mixture = oracle.draw_sources(2, seed=5).sum(dim=1)
    config = SamplerConfig(num_steps=5, zeta=0.3)
    sample(oracle.denoise, mixture, 3, config, generators(0, 1), steps.append)
    assert [s.step for s in steps] == list(range(5))
    assert steps[0].likelihood.shape == (2,) and steps[0].prior_step.shape == (2, 3)
    # the likelihood moves a source by RMS ζ |Δσ|, no more and no less
    budget = 0.3 * (steps[0].sigma - steps[1].sigma)
    torch.testing.assert_close(
        steps[0].likelihood_step, torch.full((2, 3), budget, dtype=torch.float64), rtol=1e-4, atol=0
    )


def test_a_diverging_item_spoils_no_other():
    mixture = oracle.draw_sources(2, seed=5).sum(dim=1)
    config = SamplerConfig(num_steps=5)

    def denoise(u, sigma):
        broken = torch.tensor([1.0, float("nan")], dtype=u.dtype)[:, None, None]
        return oracle.denoise(u, sigma) * broken

    good = sample(oracle.denoise, mixture, 3, config, generators(0, 1))
    both = sample(denoise, mixture, 3, config, generators(0, 1))
    assert torch.equal(both[0], good[0])
    assert not torch.isfinite(both[1]).any()
