"""Metrics against independent implementations, and on signals that have none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from davss.errors import DavssError
from davss.evaluation import metrics
from davss.evaluation.mixtures import Mixture


def signals(num_samples: int = 16000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, reference and mixture (T,): bursts of noise as speech, with pauses."""
    rng = np.random.default_rng(seed)
    bursts = np.sin(np.arange(num_samples) / 700) > -0.3
    reference = rng.standard_normal(num_samples) * bursts
    noise = rng.standard_normal(num_samples)
    return reference + 0.2 * noise, reference, reference + noise


def test_si_sdr_agrees_with_an_independent_implementation():
    fast_bss_eval = pytest.importorskip("fast_bss_eval")
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(5, 800, generator=generator, dtype=torch.float64) + 0.5
    estimate = 3 * reference + torch.randn(5, 800, generator=generator, dtype=torch.float64)
    expected = [
        fast_bss_eval.si_sdr(r[None].numpy(), e[None].numpy(), zero_mean=True)[0]
        for r, e in zip(reference, estimate, strict=True)
    ]
    torch.testing.assert_close(
        metrics.si_sdr(estimate, reference), torch.tensor(expected), rtol=0, atol=1e-6
    )


def test_si_sdr_has_the_value_of_its_definition():
    time = torch.arange(1000) * 2 * torch.pi / 100
    reference, error = torch.sin(time), torch.cos(time)  # orthogonal, equal power
    assert metrics.si_sdr(reference + 0.1 * error, reference).item() == pytest.approx(20, abs=1e-3)
    assert metrics.si_sdr(-4 * (reference + error) + 7, reference).item() == pytest.approx(
        0, abs=1e-3
    )


def test_si_sdr_keeps_batch_shapes():
    estimate, reference = torch.randn(2, 3, 400), torch.randn(2, 3, 400)
    result = metrics.si_sdr(estimate, reference)
    assert result.shape == (2, 3)
    torch.testing.assert_close(result[1, 2], metrics.si_sdr(estimate[1, 2], reference[1, 2]))


def test_si_sdr_of_silence():
    sound, silence = torch.randn(400), torch.zeros(400)
    assert metrics.si_sdr(silence, sound).item() == -math.inf
    assert math.isnan(metrics.si_sdr(sound, silence).item())
    assert math.isnan(metrics.si_sdr(silence, silence).item())
    assert metrics.si_sdr(sound, sound).item() > 100


@pytest.mark.parametrize(("rate", "mode"), [(8000, "nb"), (16000, "wb")])
def test_score_gives_every_metric(rate, mode):
    from pesq import pesq

    estimate, reference, mixture = signals(2 * rate)
    reasons: dict[str, str] = {}
    result = metrics.score(estimate, torch.from_numpy(reference), mixture, rate, reasons=reasons)
    assert tuple(result) == metrics.METRICS and not reasons
    assert all(math.isfinite(value) for value in result.values())
    assert result["si_sdri"] == pytest.approx(result["si_sdr"] - result["si_sdr_mixture"])
    assert result["si_sdri"] > 10 and result["estoi"] > result["estoi_mixture"]
    assert result["pesq"] == pytest.approx(pesq(rate, reference, estimate, mode), abs=0.02)


def test_score_is_nan_with_a_reason_where_a_metric_does_not_exist():
    reasons: dict[str, str] = {}
    result = metrics.score(*(s[:1000] for s in signals()), 8000, reasons=reasons)
    assert math.isfinite(result["si_sdr"])
    assert math.isnan(result["pesq"]) and math.isnan(result["estoi"])
    assert "1/4 of a second" in reasons["pesq"] and "STFT frames" in reasons["estoi"]

    reasons = {}
    estimate, _, mixture = signals()
    result = metrics.score(estimate, 0 * estimate, mixture, 16000, reasons=reasons)
    assert math.isnan(result["si_sdr"]) and "No utterances" in reasons["pesq"]


def test_score_of_a_silent_broken_or_oddly_sampled_estimate():
    estimate, reference, mixture = signals()
    reasons: dict[str, str] = {}
    result = metrics.score(0 * estimate, reference, mixture, 8000, reasons=reasons)
    assert result["si_sdr"] == -math.inf and math.isnan(result["pesq"])
    assert set(reasons) == {"pesq", "estoi"} and math.isfinite(result["pesq_mixture"])

    reasons = {}
    result = metrics.score(estimate * np.nan, reference, mixture, 8000, reasons=reasons)
    assert math.isnan(result["si_sdr"]) and "NaN" in reasons["si_sdr"]

    reasons = {}
    result = metrics.score(estimate, reference, mixture, 12000, reasons=reasons)
    assert "12000 Hz" in reasons["pesq"] and math.isfinite(result["estoi"])


def test_score_refuses_different_lengths():
    estimate, reference, mixture = signals()
    with pytest.raises(DavssError, match="one length"):
        metrics.score(estimate[:-1], reference, mixture, 16000)


def test_score_sources_rates_speakers_and_noise():
    estimate, reference, total = signals(8000)
    mixture = Mixture("m-1", total, reference[None], total - reference, None, 8000)
    rows = metrics.score_sources(np.stack([estimate, total - estimate]), mixture)
    assert [row["source"] for row in rows] == ["speaker_1", "noise"]
    assert math.isfinite(rows[0]["pesq"]) and rows[0]["error"] is None
    assert math.isfinite(rows[1]["si_sdri"]) and math.isnan(rows[1]["pesq"])
    assert rows[1]["error"] is None
    with pytest.raises(DavssError, match="m-1: estimates"):
        metrics.score_sources(estimate[None], mixture)
