"""Variations of training crops keep the level, and do what they say."""

import numpy as np
import pytest

from davss.shards import augment

RATE = 8000


def rms(audio):
    return np.sqrt(np.mean(np.square(audio, dtype=np.float64)))


def tone(frequency, num_samples=RATE):
    return np.sin(2 * np.pi * frequency * np.arange(num_samples) / RATE).astype(np.float32)


def test_twice_as_fast_is_an_octave_higher():
    read = augment.read_length(RATE, 2.0)
    fast = augment.change_speed(tone(400, read), RATE)
    assert read == 2 * RATE and len(fast) == RATE
    assert np.abs(np.fft.rfft(fast)).argmax() == 800
    assert np.corrcoef(fast, tone(800))[0, 1] > 0.999


def test_a_sum_keeps_the_level_and_the_ratio():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 40_000)).astype(np.float32)
    total = augment.add(one, other, -6.0)
    assert rms(total) == pytest.approx(1, rel=0.02)
    shares = [np.dot(total, part) / np.dot(part, part) for part in (one, other)]
    assert 20 * np.log10(shares[1] / shares[0]) == pytest.approx(-6.0, abs=0.3)


def test_a_colour_is_a_gain_for_each_octave():
    white = np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    decibels = np.zeros(augment.OCTAVES + 1)
    decibels[:2] = (0.0, 12.0)  # around 2 kHz, an octave below half the rate
    coloured = augment.colour(white, decibels)
    assert rms(coloured) == pytest.approx(rms(white), rel=1e-4)
    power = np.square(np.abs(np.fft.rfft(coloured)))
    bins = np.arange(len(power)) * RATE / 80_000
    at = {f: power[(bins > 0.97 * f) & (bins < 1.03 * f)].mean() for f in (500, 2000)}
    assert 10 * np.log10(at[2000] / at[500]) == pytest.approx(12, abs=1)


def test_a_thin_crop_falls_by_12_db_an_octave_and_keeps_its_level():
    heard = sum(tone(frequency) for frequency in (150, 300, 3000))
    thin = augment.thin(heard, 1200 / RATE)
    change = np.abs(np.fft.rfft(thin)) / np.abs(np.fft.rfft(heard)).clip(1e-6)
    low, octave_higher, high = (20 * np.log10(change[f]) for f in (150, 300, 3000))
    assert abs(octave_higher - low - 12.0) < 0.1 and abs(octave_higher - high + 24.1) < 0.2
    assert abs(np.std(thin) / np.std(heard) - 1) < 1e-3


def test_a_dull_crop_has_nothing_high_and_keeps_its_level():
    heard = sum(tone(frequency) for frequency in (300, 1500, 3000))
    dull = augment.dull(heard, 750 / RATE)
    change = np.abs(np.fft.rfft(dull)) / np.abs(np.fft.rfft(heard)).clip(1e-6)
    low, high, octave_higher = (20 * np.log10(change[f]) for f in (300, 1500, 3000))
    assert abs(low - high - 36.1) < 0.2 and abs(high - octave_higher - 36.1) < 0.2
    assert abs(np.std(dull) / np.std(heard) - 1) < 1e-3
