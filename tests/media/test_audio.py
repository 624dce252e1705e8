"""Audio in and out: round trips, channels, rates, and every kind of bad file as one clear line."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from davss.corpora.demo import write_mp4
from davss.errors import DavssError
from davss.media import resampling
from davss.media.audio import read_audio, read_sound, require_sound, resample, write_audio
from tests.media.making import write

RATE = 16_000


def noise(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (0.1 * samples).astype(np.float32)


def clip(path: Path, audio: np.ndarray) -> Path:
    frames = np.zeros((len(audio) // 640, 224, 224, 3), np.uint8)
    write_mp4(path, frames, audio)
    return path


def test_float_wav_round_trip_is_exact(tmp_path: Path) -> None:
    audio = 3 * noise()  # beyond full scale too
    write_audio(tmp_path / "a" / "x.wav", audio, RATE)
    read, rate = read_audio(tmp_path / "a" / "x.wav")
    assert rate == RATE and read.dtype == np.float32
    np.testing.assert_array_equal(read, audio)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.wav"]


def test_several_channels_are_written_and_their_mean_is_read(tmp_path: Path) -> None:
    audio = np.stack([noise(seed=1), noise(seed=2)])
    write_audio(tmp_path / "x.wav", audio, RATE)
    assert soundfile.info(tmp_path / "x.wav").channels == 2
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav")[0], audio.mean(0))
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav", channel=1)[0], audio[1])
    with pytest.raises(DavssError, match="x.wav: has no channel 2; give 0 to 1"):
        read_audio(tmp_path / "x.wav", channel=2)


SPEECH, NONE = 0.1 * np.sin(np.arange(8000) / 3), np.zeros(8000)


@pytest.mark.parametrize("name", ["x.wav", "x.m4a"])
@pytest.mark.parametrize(
    ("channels", "warning", "kept"),
    [
        ([SPEECH, SPEECH], "", SPEECH),
        ([NONE, SPEECH], "x.*: 1 of 2 channels are silent; taken: channel 1", SPEECH),
        ([SPEECH, -SPEECH], "x.*: its channels cancel each other out; channel ., the l", SPEECH),
        ([NONE, NONE, SPEECH, NONE, NONE, NONE], "5 of 6 channels are silent; taken: ", SPEECH),
        ([NONE, NONE], "", NONE),
    ],
)
def test_speech_in_any_channel(tmp_path, name, channels, warning, kept) -> None:
    codec = "aac" if name.endswith("a") else "pcm_s16le"
    samples = np.stack(channels).astype(np.float32)
    write(tmp_path / name, None, samples, codecs=("", codec))
    audio, said = read_sound(tmp_path / name).mono()
    assert re.search(warning, said) if warning else said == ""
    level = np.sqrt(np.mean(audio**2))
    assert abs(level - np.sqrt(np.mean(kept**2))) < 0.005


@pytest.mark.parametrize(("old", "new"), [(47_999, 16_000), (384_000, 4001), (16_000, 8000)])
def test_resampling_at_any_ratio_is_bounded(old, new) -> None:
    """torchaudio's filters of 47,999 Hz would take 9.6 GB."""
    time = np.arange(old // 2) / old
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    found = resample(np.stack([tone, tone]), old, new)
    assert found.shape == (2, math.ceil(len(tone) * new / old))
    expected = np.sin(2 * np.pi * 440 * np.arange(found.shape[1]) / new)
    assert np.abs(found - expected)[:, 100:-100].max() < 0.01


def test_audio_of_an_mp4_is_aligned_with_what_was_written(tmp_path: Path) -> None:
    audio = np.zeros(3 * RATE, np.float32)
    for start in (4000, 17_000, 30_000, 41_000):
        audio[start : start + 400] = noise(seed=start)[:400]
    read, rate = read_audio(clip(tmp_path / "x.mp4", audio))
    assert rate == RATE and len(read) == len(audio)
    lags = np.arange(-40, 41)
    match = [np.dot(np.roll(audio, lag), read[: len(audio)]) for lag in lags]
    assert abs(lags[int(np.argmax(match))]) <= 1  # AAC priming is compensated: < 0.1 ms
    assert read_audio(tmp_path / "x.mp4", 8000)[1] == 8000


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_samples_are_refused(tmp_path: Path, value: float) -> None:
    audio = noise()
    audio[100] = value
    with pytest.raises(DavssError, match="non-finite"):
        write_audio(tmp_path / "x.wav", audio, RATE)
    soundfile.write(tmp_path / "y.wav", audio, RATE, subtype="FLOAT")
    with pytest.raises(DavssError, match="y.wav: audio has NaN or infinite samples"):
        read_audio(tmp_path / "y.wav")
    assert not (tmp_path / "x.wav").exists()


def test_silence_is_told_apart() -> None:
    require_sound(noise(), "x.wav")
    with pytest.raises(DavssError, match="x.wav: audio is silent; there is nothing to hear"):
        require_sound(np.zeros(100, np.float32), "x.wav")


@pytest.mark.parametrize("rates", [(48_000, 8000), (8000, 48_000), (44_100, 16_000), (3, 1)])
def test_long_signals_are_resampled_block_by_block(rates, monkeypatch) -> None:
    sound = np.random.default_rng(0).standard_normal((2, 50_001)).astype(np.float32)
    whole = resample(sound, *rates)
    monkeypatch.setattr(resampling, "BLOCK", 9000)
    np.testing.assert_allclose(resample(sound, *rates), whole, atol=1e-5)
