"""Whether a face and a sound belong together: synthetic mouths and voices of which it is known."""

from __future__ import annotations

import numpy as np
import pytest

from davss.networks.agreement import assign, correlation, envelope, judge, shifted, talking
from davss.networks.lipsound import BANDS, log_mel

RATE = 8000


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """Six seconds whose spectrum changes shape and level."""
    rng = np.random.default_rng(0)
    time = np.arange(6 * RATE) / RATE
    tones = [np.sin(2 * np.pi * hertz * time) for hertz in (200, 500, 1000, 2000, 3000)]
    levels = np.exp(rng.standard_normal((5, 60)))
    at = np.linspace(0, 59, len(time))
    return sum(
        tone * np.interp(at, np.arange(60), level)
        for tone, level in zip(tones, levels, strict=True)
    ).astype(np.float32)


def lips_of(voice: np.ndarray, noise: float = 1.0) -> np.ndarray:
    """Features whose last bands say what is heard, more or less."""
    heard = log_mel(voice, RATE)
    heard = (heard - heard.mean(0)) / heard.std(0)
    return heard + noise * np.random.default_rng(1).standard_normal(heard.shape)


def test_lips_that_explain_the_sound(voice):
    verdict = judge(lips_of(voice), voice, RATE)
    assert verdict.explains and verdict.lag == 0 and verdict.correlation > 0.3 > verdict.chance


def test_lips_out_of_time_do_not(voice):
    lips = lips_of(voice)
    assert not judge(np.roll(lips, 60, 0), voice, RATE).explains


def test_that_it_is_loud_when_a_mouth_opens_is_not_enough(voice):
    level = np.repeat(lips_of(voice, 0).mean(1, keepdims=True), BANDS, 1)
    level += 0.3 * np.random.default_rng(2).standard_normal(level.shape)
    assert correlation(level, log_mel(voice, RATE)) > 0.3
    assert not judge(level, voice, RATE).explains


@pytest.mark.parametrize("late", [-7, -3, 4, 10])
def test_a_picture_that_is_late_is_noticed(voice, late):
    lips = shifted(lips_of(voice, 0.3), -late)
    verdict = judge(lips, voice, RATE)
    assert verdict.lag == late and verdict.explains


def test_another_person_who_is_loud_later_makes_no_picture_late(voice):
    lips = lips_of(voice, 0.3)
    level = lips.mean(1, keepdims=True)
    lips = lips - level + 5 * np.roll(level, 8, 0)
    heard = log_mel(voice, RATE)
    assert correlation(shifted(lips, 8), heard) > correlation(lips, heard) + 0.2
    assert judge(lips, voice, RATE).lag == 0


def test_stretches_in_which_another_is_louder_count_less(voice):
    turn = np.repeat(np.arange(6, dtype=np.float32) % 2, RATE)
    own, other = voice * (0.1 + turn), np.flip(voice) * (1.1 - turn)
    lips = lips_of(own), lips_of(other)
    alone = judge(lips[0], own + other, RATE)
    assert judge(lips[0], own + other, RATE, lips[1:]).correlation > alone.correlation + 0.1
    unseen = judge(lips[0], own + other, RATE, [np.full_like(lips[1], np.nan)])
    assert unseen.correlation == pytest.approx(alone.correlation)


def test_frames_that_show_nothing_do_not_count(voice):
    lips = lips_of(voice)
    lips[50:90] = np.nan
    assert judge(lips, voice, RATE).explains
    assert judge(np.full_like(lips, np.nan), voice, RATE).correlation == 0


def test_shifted():
    rows = np.arange(5.0)[:, None]
    np.testing.assert_array_equal(shifted(rows, 2)[:, 0], [2, 3, 4, np.nan, np.nan])
    np.testing.assert_array_equal(shifted(rows, -2)[:, 0], [np.nan, np.nan, 0, 1, 2])
    assert np.isnan(shifted(rows, 9)).all()


def test_envelope_by_frames():
    audio = np.concatenate([np.zeros(3200), np.ones(3200)])
    level = envelope(audio, RATE, 25)[:, 0]
    assert level[:10].max() < level[10:20].min() - 3 and np.isnan(level[20:]).all()


def test_voices_are_given_to_the_mouths_that_move_with_them():
    rng = np.random.default_rng(0)
    gaps = np.abs(np.cumsum(rng.standard_normal((2, 200)), 1) % 6 - 3)
    mouths = [talking(np.arange(200), gap, 200) for gap in gaps]
    sounds = [mouth + 0.3 * rng.standard_normal(mouth.shape) for mouth in mouths]
    noise = rng.standard_normal((200, 1))
    assert assign(mouths, [noise, sounds[1], sounds[0]])[0] == [2, 1]
    chosen, margin = assign(mouths, sounds)
    assert chosen == [0, 1] and margin > 0.3
    assert assign(mouths, [noise, noise])[1] == 0
    assert assign([], [noise])[0] == []
