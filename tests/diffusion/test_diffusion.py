"""Preconditioning, loss and guidance against their definitions; priors on disk."""

import json
import math

import pytest
import torch

from davss.config import DiffusionConfig, SamplerConfig
from davss.diffusion.denoiser import Denoiser, c_out, c_skip
from davss.diffusion.guidance import GuidedSpeech, plan_branches
from davss.diffusion.loss import noise_levels, training_loss
from davss.diffusion.prior import load_prior, save_prior
from davss.errors import DavssError
from tests.priors import INFO, make_noise_prior, make_speech_prior


def test_loss_is_the_networks_regression_error():
    clean, noise = torch.randn(3, 400) * 0.05, torch.randn(3, 400)
    prior = make_speech_prior()
    uniforms = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)[:, None].expand(3, 3)
    loss = training_loss(prior, clean, None, None, DiffusionConfig(), noise, uniforms)
    sigma = noise_levels(uniforms[:, 0], DiffusionConfig()).float()
    u, level = clean + sigma[:, None] * noise, sigma[:, None]
    scaled = u / (level**2 + 0.05**2).sqrt()
    output = prior.network(scaled[:, None], sigma.log() / 4)[:, 0]
    target = (clean - c_skip(level, 0.05) * u) / c_out(level, 0.05)
    torch.testing.assert_close(loss, ((output - target) ** 2).mean(dim=1), rtol=1e-4, atol=1e-5)


def test_untrained_denoiser_is_the_wiener_filter_of_white_noise():
    denoiser = Denoiser(make_speech_prior().network, 0.05)
    torch.nn.init.zeros_(denoiser.network.output_layer.weight)
    torch.nn.init.zeros_(denoiser.network.output_layer.bias)
    u, sigma = torch.randn(2, 400), torch.tensor([0.05, 0.1])
    gain = 0.05**2 / (0.05**2 + sigma**2)
    torch.testing.assert_close(denoiser(u, sigma), gain[:, None] * u)


def test_lips_are_dropped_at_the_given_rate():
    seen = []

    class Prior:
        def condition(self, lips, num_samples, has_lips):
            seen.append(has_lips)

        def __call__(self, u, sigma, modulations):
            return u

    generator = torch.Generator().manual_seed(0)
    config = DiffusionConfig(lips_dropout=0.2)
    available = torch.arange(4000) % 4 != 0
    clean, lips = torch.zeros(4000, 8), torch.zeros(4000, 1, 6)
    uniforms = torch.rand(4000, 3, generator=generator, dtype=torch.float64)
    training_loss(Prior(), clean, lips, available, config, torch.zeros_like(clean), uniforms)
    assert not (seen[0] & ~available).any()
    assert abs(seen[0][available].float().mean() - 0.8) < 0.03


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_lips", [0, 2, 3])
def test_guidance_in_one_call(weight, num_lips):
    prior, calls = make_speech_prior(), []
    prior.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    u, sigma = torch.randn(2, 3, 500) * 0.05, torch.tensor([0.05, 0.1])
    lips = torch.randn(2, num_lips, 4, 6) if num_lips else None
    config = SamplerConfig(guidance_weight=weight)
    result = GuidedSpeech(prior, lips, (2, 3, 500), config)(u, sigma)
    branches = num_lips if weight else 0
    assert len(calls) == 1
    assert sum(calls) == 2 * (3 + branches)  # a branch without weight costs nothing
    assert plan_branches(3, num_lips, config).total == 3 + branches
    for k in range(3):
        expected = prior(u[:, k], sigma)
        if k < num_lips:
            with_lips = prior(u[:, k], sigma, lips[:, k])
            expected = (1 + weight) * with_lips - weight * expected
        torch.testing.assert_close(result[:, k], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [make_speech_prior, make_noise_prior])
def test_prior_survives_the_disk(tmp_path, make):
    prior = make()
    save_prior(prior, tmp_path / "prior")
    loaded = load_prior(tmp_path / "prior")
    assert type(loaded) is type(prior) and loaded.info == INFO
    u, sigma = torch.randn(2, 500), torch.tensor([0.1, 0.2])
    torch.testing.assert_close(loaded(u, sigma), prior(u, sigma))


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe{}", b"[" * 100_000, b"[]", b"null", b"", b'{"kind": []}', {"sample_rate": None}]
    + [{"sample_rate": "8000"}, {"sample_rate": -1}, {"network": ...}, {"diffusion": ...}]
    + [{"network": []}, {"diffusion": {"sigma_data": "x"}}, {"sample_rate": True}],
)
def test_a_config_that_is_none_is_told_in_a_line(tmp_path, content):
    save_prior(make_noise_prior(), tmp_path)
    path = tmp_path / "config.json"
    if isinstance(content, dict):
        config = json.loads(path.read_text()) | content
        content = json.dumps({k: v for k, v in config.items() if v is not ...}).encode()
    path.write_bytes(content)
    with pytest.raises(DavssError, match=r"config\.json: [^\n]*$"):
        load_prior(tmp_path)


def test_prior_errors_name_the_file(tmp_path):
    with pytest.raises(DavssError, match="no prior here"):
        load_prior(tmp_path)
    save_prior(make_noise_prior(), tmp_path / "prior")
    weights = tmp_path / "prior" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DavssError, match=r"weights\.safetensors: damaged"):
        load_prior(tmp_path / "prior")
    weights.unlink()
    with pytest.raises(DavssError, match=r"weights\.safetensors: no such file"):
        load_prior(tmp_path / "prior")
    (tmp_path / "prior" / "config.json").write_text("{")
    with pytest.raises(DavssError, match=r"config\.json: not valid JSON"):
        load_prior(tmp_path / "prior")


def test_wrong_feature_size_is_named():
    with pytest.raises(DavssError, match="features of size 5"):
        make_speech_prior()(torch.zeros(1, 400), torch.ones(1), torch.zeros(1, 3, 5))


def test_lognormal_levels_have_their_quantiles_within_the_limits():
    config = DiffusionConfig(lognormal=(-2.0, 1.0), sigma_min=1e-4, sigma_max=1.0)
    uniforms = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    sigma = noise_levels(uniforms, config)
    assert sigma.min() > 1e-4 and sigma.max() <= 1.0 and bool((sigma.diff() > 0).all())
    # cut at ln 1 = 0, two deviations above the mean
    inside = torch.distributions.Normal(-2.0, 1.0).cdf(torch.tensor(0.0)).item()
    below = (sigma < math.exp(-2.0)).double().mean().item()
    assert below == pytest.approx(0.5 / inside, abs=2e-3)


def test_frames_that_are_not_seen_get_the_null_condition():
    prior, config = make_speech_prior(), SamplerConfig()
    u, sigma = torch.randn(1, 2, 3200), torch.tensor([0.3])
    lips = torch.randn(1, 2, 10, 6)
    shape = (1, 2, 3200)
    unseen = GuidedSpeech(prior, torch.full_like(lips, torch.nan), shape, config)(u, sigma)
    torch.testing.assert_close(unseen, GuidedSpeech(prior, None, shape, config)(u, sigma))
    gap = lips.clone()
    gap[:, :, 5:] = torch.nan
    with_gap = GuidedSpeech(prior, gap, shape, config)(u, sigma)
    seen = GuidedSpeech(prior, lips, shape, config)(u, sigma)
    assert with_gap.isfinite().all() and not torch.allclose(with_gap, seen)
