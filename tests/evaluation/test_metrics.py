"""Metrics against independent implementations, and on signals that have none."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from davss.errors import DavssError
from davss.evaluation import metrics

with_pesq = pytest.mark.skipif(find_spec("pesq") is None, reason="pesq is not installed")


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


@with_pesq
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


@with_pesq
def test_score_is_nan_with_a_reason_where_a_metric_does_not_exist():
    reasons: dict[str, str] = {}
    result = metrics.score(*(s[:1000] for s in signals()), 8000, reasons=reasons)
    assert math.isfinite(result["si_sdr"])
    assert math.isnan(result["pesq"]) and math.isnan(result["estoi"])
    assert "1/4 of a second" in reasons["pesq"] and "STFT frames" in reasons["estoi"]
    metrics.score(*(s[:100] for s in signals()), 16000, reasons=reasons)
    assert "STFT frames" in reasons["estoi"]

    reasons = {}
    estimate, _, mixture = signals()
    result = metrics.score(estimate, 0 * estimate, mixture, 16000, reasons=reasons)
    assert math.isnan(result["si_sdr"]) and "reference is silent" in reasons["pesq"]
    assert math.isnan(result["estoi"]) and "reference is silent" in reasons["estoi"]


@with_pesq
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


@with_pesq
def test_score_sources_rates_speakers_and_noise():
    estimate, reference, total = signals(8000)
    estimates = np.stack([estimate, total - estimate])
    references = np.stack([reference, total - reference])
    rows = metrics.score_sources(estimates, references, total, 8000)
    assert [row["source"] for row in rows] == ["speaker_1", "noise"]
    assert set(rows[0]) == {"source", *metrics.SOURCE_METRICS, "error"}
    assert math.isfinite(rows[0]["pesq"]) and rows[0]["error"] is None
    assert math.isfinite(rows[1]["si_sdri"]) and math.isnan(rows[1]["pesq"])
    assert rows[1]["error"] is None
    with pytest.raises(DavssError, match=r"estimates \(1, 8000\) do not fit .*\(2, 8000\)"):
        metrics.score_sources(estimates[:1], references, total, 8000)
    quick = metrics.score_sources(estimates, references, total, 8000, perceptual=False)
    assert math.isnan(quick[0]["pesq"]) and quick[0]["si_sdr"] == rows[0]["si_sdr"]


def test_sir_and_sar_have_the_values_of_their_definition():
    """Sources and error are orthogonal: what leaks and what is made up are known."""
    time = 2 * np.pi * np.arange(1000) / 1000
    references = np.stack([np.sin(5 * time), np.sin(9 * time), np.sin(14 * time)])
    made_up = np.cos(5 * time)
    estimate = 3 * references[0] + 0.3 * references[1] + 0.4 * references[2] + 0.03 * made_up + 1
    sir, sar = metrics.si_sir_sar(estimate, references, 0)
    assert sir == pytest.approx(20 * math.log10(3 / 0.5)) and sar == pytest.approx(40)
    assert metrics.si_sir_sar(3 * references[0] + references[1], references, 0)[1] > 200
    assert all(map(math.isnan, metrics.si_sir_sar(estimate, 0 * references, 0)))


def test_sir_and_sar_make_up_sdr_and_agree_with_a_projection():
    """As Le Roux et al. define them; the projection is written with an orthonormal basis here."""
    rng = np.random.default_rng(0)
    references = rng.standard_normal((3, 4000)) + 0.7 * rng.standard_normal(4000)
    estimate = references[1] + 0.3 * references[0] + 0.5 * rng.standard_normal(4000)
    sir, sar = metrics.si_sir_sar(estimate, references, 1)
    tensors = torch.from_numpy(estimate), torch.from_numpy(references[1])
    sdr = metrics.si_sdr(*tensors).item()
    assert 10 ** (-sdr / 10) == pytest.approx(10 ** (-sir / 10) + 10 ** (-sar / 10))
    centred = references - references.mean(axis=1, keepdims=True)
    basis = np.linalg.qr(centred.T)[0]
    signal = estimate - estimate.mean()
    target = (signal @ centred[1]) / (centred[1] @ centred[1]) * centred[1]
    inside = basis @ (basis.T @ signal)
    expected = 10 * np.log10((target @ target) / np.square(inside - target).sum())
    assert sir == pytest.approx(expected)


def test_the_estimate_of_another_speaker_that_fits_better_is_told():
    _, reference, total = signals(8000)
    other = np.random.default_rng(9).standard_normal(8000)
    references = np.stack([reference, other, total - reference])
    swapped = np.stack([other, reference + 0.1 * other, total - reference])
    first, _, noise = metrics.score_sources(swapped, references, total, 8000, perceptual=False)
    assert first["si_sdr"] < 0 and first["si_sdr_other"] > 15
    assert math.isnan(noise["si_sdr_other"])
