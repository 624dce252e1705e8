"""Trained listeners against second implementations: the packages' own where they can be imported,
others where not. Without the extra `listeners` most of it is skipped.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from davss.evaluation import listeners, metrics

ROOT = Path(__file__).parents[2]


def needs(listener: str) -> pytest.MarkDecorator:
    missing = listeners.missing_packages(listener)
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def speech(seconds: float = 4.0, seed: int = 0) -> np.ndarray:
    """Something like a voice: harmonics that come and go, and a little noise."""
    t = np.arange(round(seconds * 16_000)) / 16_000
    tones = sum(np.sin(2 * np.pi * (120 + 10 * seed) * k * t) / k for k in range(1, 20))
    return 0.1 * tones * (np.sin(2 * np.pi * 3 * t) > 0) + 0.003 * np.random.default_rng(
        seed
    ).standard_normal(len(t))


def test_error_rates_are_those_of_the_books():
    """kitten → sitting takes three edits (Levenshtein); the rest by hand."""
    assert listeners.error_rates("sitting", "kitten") == {"wer": 1.0, "cer": 3 / 6}
    rates = listeners.error_rates("The cat sat, on mat!", "the cat sat on the mat")
    assert rates["wer"] == pytest.approx(1 / 6) and rates["cer"] == pytest.approx(4 / 22)
    assert listeners.error_rates("a b c d", "a")["wer"] == 3, "insertions may exceed 1"
    assert listeners.words_of("Don’t  stop_it — 42!") == ["don’t", "stop", "it", "42"]


@needs("dnsmos")
@pytest.mark.parametrize("seconds", [2.8, 9.5, 12.3])
def test_dnsmos_agrees_with_its_package(seconds):
    """Which wants librosa besides, for a score that is not ours."""
    package = pytest.importorskip("speechmos.dnsmos")
    audio = speech(seconds)
    audio = (audio / np.abs(audio).max()).astype(np.float32)
    theirs, found = package.run(audio, 16_000), listeners.dnsmos(audio)
    for name, value in found.items():
        assert value == pytest.approx(theirs[name.removeprefix("dnsmos_") + "_mos"], abs=1e-3)


@needs("dnsmos")
def test_dnsmos_hears_noise_and_is_not_defined_at_8_khz():
    clean, reasons = speech(), {}
    noisy = clean + 0.05 * np.random.default_rng(1).standard_normal(len(clean))
    scores = [listeners.dnsmos(one.astype(np.float32))["dnsmos_bak"] for one in (clean, noisy)]
    assert scores[0] > scores[1] + 0.3
    found = listeners.listen(noisy, clean, 8000, ["dnsmos"], reasons)
    assert math.isnan(found["dnsmos_sig"]) and "16000 Hz, not at 8000" in reasons["dnsmos"]


@needs("speaker")
@pytest.mark.parametrize("seconds", [1.0, 2.8, 4.0])
def test_speaker_embeddings_agree_with_a_second_implementation(seconds):
    """The mel spectrogram is librosa's, as in the package; the LSTM is written out in numpy."""
    librosa = pytest.importorskip("librosa")
    audio = speech(seconds).astype(np.float32)
    level = 10 * np.log10(np.mean(np.square(audio)))
    audio *= 10 ** (max(-30 - level, 0) / 20)
    total = int(np.ceil((len(audio) + 1) / 160))
    starts = list(range(0, max(1, total - 160 + 77 + 1), 77))
    if len(starts) > 1 and (len(audio) - starts[-1] * 160) / (160 * 160) < 0.75:
        starts = starts[:-1]
    end = (starts[-1] + 160) * 160
    audio = np.pad(audio, (0, max(0, end - len(audio))))
    mel = librosa.feature.melspectrogram(y=audio, sr=16_000, n_fft=400, hop_length=160, n_mels=40)
    path = listeners._folder_of("resemblyzer") / "pretrained.pt"
    weights = {
        name: one.numpy()
        for name, one in torch.load(path, "cpu", weights_only=True)["model_state"].items()
    }
    total = np.zeros(256)
    for start in starts:
        x = mel.T[start : start + 160]
        for layer in range(3):
            x = lstm(x, *(weights[f"lstm.{w}_l{layer}"] for w in NAMES))
        one = np.maximum(weights["linear.weight"] @ x[-1] + weights["linear.bias"], 0)
        total += one / np.linalg.norm(one)
    found = listeners.speaker_embedding(torch.from_numpy(speech(seconds).astype(np.float32)))
    np.testing.assert_allclose(found.numpy(), total / np.linalg.norm(total), atol=2e-4)


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def lstm(x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    def sigmoid(y: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-y))

    hidden, cell, out = np.zeros(256), np.zeros(256), []
    for frame in x:
        i, f, g, o = np.split(w @ frame + r @ hidden + b + c, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        out.append(hidden)
    return np.stack(out)


@needs("words")
def test_words_are_understood():
    """A prompt of Asterisk whose text is known."""
    from davss.media.audio import read_audio

    paths = sorted((ROOT / "pipelines/demo_data").rglob("*.ogg"))
    english = [path for path in paths if "/en" in str(path)]
    if not english:
        pytest.skip("no English in the demo's recordings")
    audio, rate = read_audio(english[0], 16_000)
    said, language = listeners.transcribe(np.ascontiguousarray(audio).tobytes())
    assert language == "en" and len(listeners.words_of(said)) > 2
    found = listeners.listen(audio, audio, rate, ["words"], {})
    assert found == {"wer": 0.0, "cer": 0.0}
    noisy = audio + 0.3 * np.random.default_rng(0).standard_normal(len(audio))
    assert listeners.listen(noisy, audio, rate, ["words"], {})["cer"] > 0.2


@needs("words")
def test_a_reference_without_words_has_no_error_rate():
    reasons: dict[str, str] = {}
    hiss = 0.001 * np.random.default_rng(0).standard_normal(16_000)
    found = listeners.listen(hiss, hiss, 16_000, ["words"], reasons)
    assert math.isnan(found["wer"]) and "understands nothing" in reasons["words"]


def test_silence_has_no_scores_and_loads_no_model():
    found = listeners.listen(np.zeros(100), np.ones(100), 16_000, list(listeners.METRICS), {})
    assert set(found) == set(listeners.metrics_of(listeners.METRICS))
    assert all(map(math.isnan, found.values()))


def test_pesq_of_high_rates_is_that_of_16_khz():
    pytest.importorskip("pesq")
    from davss.media.audio import resample

    clean = speech(3.0).astype(np.float32)
    noisy = clean + 0.02 * np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
    high = [resample(one, 16_000, 48_000) for one in (noisy, clean)]
    expected = metrics.score(noisy, clean, None, 16_000)["pesq"]
    found = metrics.score(*high, None, 48_000)
    assert found["pesq"] == pytest.approx(expected, abs=0.1)
    assert math.isnan(found["si_sdri"]) and math.isfinite(found["si_sdr"])
