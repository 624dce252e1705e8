"""Damage, each kind against a closed form or another program."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from davss.errors import DavssError
from davss.evaluation import damage
from davss.evaluation.damage import damaged_picture, damaged_sound, parse

RATE = 16_000
TIME = np.arange(2 * RATE) / RATE


def tone(hertz: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * TIME)


def decibel(found: np.ndarray, reference: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(found)) / np.mean(np.square(reference))))


def voice(seed: int = 0) -> np.ndarray:
    """Harmonics that come and go, as those of speech."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.5 * TIME)) / RATE
    sound = sum(np.sin(h * phase + rng.uniform(0, 6)) / h for h in range(1, 20))
    return (0.05 * sound * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * TIME))).astype(np.float32)


def mixed(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is damaged, the mixture and the references."""
    speech = np.stack([voice(0), voice(1)])
    noise = 0.01 * np.random.default_rng(2).standard_normal(len(TIME)).astype(np.float32)
    mixture, references = damaged_sound(text, speech, noise, RATE, np.random.default_rng(3))
    assert mixture.dtype == np.float32 and references.shape == speech.shape
    if not text.startswith("reverb"):
        np.testing.assert_array_equal(references, speech)
    return speech.sum(axis=0) + noise, mixture, references


@pytest.mark.parametrize("text", ["", "shift:3", "pixels:8"])
def test_the_sound_is_left_alone_without_damage_to_it(text):
    plain, mixture, _ = mixed(text)
    np.testing.assert_array_equal(mixture, plain)


@pytest.mark.parametrize("change", [-30.0, 12.5])
def test_level_is_in_decibel(change):
    plain, mixture, _ = mixed(f"level:{change}")
    assert decibel(mixture, plain) == pytest.approx(change, abs=1e-4)


def test_thin_voices_are_their_own_reference():
    rng = np.random.default_rng(0)
    speech, noise = rng.standard_normal((2, 16_000)), rng.standard_normal(16_000)
    mixture, heard = damage.damaged_sound("thin:2000", speech, noise, 16_000, rng)
    np.testing.assert_allclose(mixture, heard.sum(axis=0) + noise, atol=1e-5)
    before, after = (np.abs(np.fft.rfft(voices)) for voices in (speech, heard))
    assert after[:, :250].mean() < 0.03 * before[:, :250].mean()
    np.testing.assert_allclose(heard.std(axis=1), speech.std(axis=1), rtol=1e-3)


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_a_sine_is_clipped_where_its_distribution_says(share):
    # |sin| is above cos(πp/2) for the share p of the time
    found = damage.clip(tone(437.3), RATE, share)
    assert np.abs(found).max() == pytest.approx(np.cos(np.pi * share / 2), abs=1e-3)
    assert np.mean(np.abs(found) >= np.abs(found).max() - 1e-9) == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_a_telephone_passes_its_band_alone(rate):
    time = np.arange(2 * rate) / rate
    for hertz, low, high in [
        (1000, -0.1, 0.1),
        (3000, -1, 0.1),
        (100, -200, -40),
        (3900, -200, -20),
    ]:
        before = np.sin(2 * np.pi * hertz * time)
        after = damage.telephone(before, rate, 0.0)
        middle = slice(rate // 2, -rate // 2)
        assert low < decibel(after[middle], before[middle]) < high, hertz
    passed = damage.telephone(tone(1000), 16_000, 0.0)
    assert np.corrcoef(passed, tone(1000))[0, 1] > 0.999  # no delay


def test_opus_decodes_as_ffmpeg_does_and_in_time():
    plain, mixture, _ = mixed("opus:64")
    file = damage.as_opus(plain, RATE, 64)
    with av.open(io.BytesIO(file)) as container:  # FFmpeg has a decoder of its own
        theirs = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    ours = damage.from_opus(file, 48_000)
    assert decibel(ours - theirs, theirs) < -100
    shifts = range(-40, 41)
    fits = [np.dot(plain, np.roll(mixture, shift)) for shift in shifts]
    assert shifts[int(np.argmax(fits))] == 0 and len(mixture) == len(plain)


def test_opus_costs_the_bits_that_are_asked_for():
    sizes = [8 * len(damage.as_opus(voice(), RATE, kbps)) / 2000 for kbps in (8, 32)]
    assert 5 < sizes[0] < 13 and 20 < sizes[1] < 45  # kb/s, with Ogg's headers
    losses = [decibel(mixed(f"opus:{kbps}")[1] - mixed("")[1], mixed("")[1]) for kbps in (8, 32)]
    assert losses[1] < losses[0] - 3


def decay(response: np.ndarray) -> float:
    """RT60 in s by Schroeder's integral, −5 to −25 dB."""
    energy = np.cumsum(np.square(response[::-1]))[::-1]
    curve = 10 * np.log10(energy / energy[0])
    part = np.flatnonzero((curve < -5) & (curve > -25))
    return -60 / (np.polyfit(part, curve[part], 1)[0] * RATE)


def test_a_room_decays_as_asked_and_its_direct_sound_comes_first():
    for rt60 in (0.3, 0.6):
        for response, first in damage.room_responses(3, RATE, rt60, np.random.default_rng(1)):
            assert decay(response) == pytest.approx(rt60, rel=0.3)
            assert abs(int(np.abs(response).argmax()) - first) <= 1
            before = np.square(response[: first - RATE // 1000])
            assert before.sum() < 5e-3 * np.square(response).sum()


def test_references_of_a_room_are_the_voices_with_its_first_reflections():
    speech = np.zeros((2, RATE), np.float32)
    speech[:, 4000] = 1
    mixture, early = damaged_sound(
        "reverb:0.6", speech, 0 * speech[0], RATE, np.random.default_rng(1)
    )
    end = 4000 + RATE // 20
    np.testing.assert_allclose(early.std(axis=1), speech.std(axis=1), rtol=1e-4)
    assert np.abs(early).argmax(axis=1) == pytest.approx([4000, 4000], abs=1)
    np.testing.assert_allclose(early[:, end + 1 :], 0, atol=1e-6)
    assert np.abs(early[:, 4400:end]).max() > 1e-3
    np.testing.assert_allclose(mixture[: end - 1], early.sum(axis=0)[: end - 1], atol=1e-6)
    assert np.square(mixture[end:]).sum() > 0.05 * np.square(early).sum()


def frames(count: int = 50) -> np.ndarray:
    """Crops with texture, the first pixel of which counts them."""
    rng = np.random.default_rng(0)
    crops = rng.integers(60, 200, (1, 96, 96)).repeat(count, 0).astype(np.uint8)
    crops[:, 0, 0] = np.arange(count)
    return crops


def shown(text: str, first: int = 10, count: int = 30) -> np.ndarray:
    return damaged_picture(text, frames(), first, count, np.random.default_rng(0))


@pytest.mark.parametrize("by", [-10, -1, 3])
def test_lips_come_late_or_early(by):
    numbers = shown(f"shift:{by}")[:, 0, 0].astype(int)
    np.testing.assert_array_equal(numbers, (np.arange(50) - by).clip(0, 49))


def test_frames_are_dropped_and_the_last_one_stays():
    numbers = shown("dropped:0.5")[:, 0, 0].astype(int)
    late = np.arange(50) - numbers
    assert (
        (late[10:40] > 0).sum() == round(0.5 * 29)
        and not np.any(late[:11])
        and not np.any(late[40:])
    )
    np.testing.assert_array_equal(numbers, np.maximum.accumulate(np.where(late, 0, range(50))))
    np.testing.assert_array_equal(shown("dropped:1")[10:40, 0, 0], 10)


def test_a_picture_stands_in_one_stretch():
    numbers = shown("frozen:0.4")[:, 0, 0].astype(int)
    (stands,) = np.flatnonzero(np.bincount(numbers) > 1)
    np.testing.assert_array_equal(numbers[stands : stands + 12], stands)
    others = np.delete(np.arange(50), slice(stands, stands + 12))
    np.testing.assert_array_equal(numbers[others], others)


def test_a_mouth_is_covered_for_a_share_of_the_time():
    grey = shown("covered:0.5")[:, *damage.PATCH].std(axis=(1, 2)) == 0
    assert grey.sum() == 15 and set(np.flatnonzero(np.diff(grey.astype(int)))) <= set(range(9, 40))
    assert np.count_nonzero(np.diff(grey.astype(int))) == 2
    np.testing.assert_array_equal(shown("covered:1")[0], frames()[0])


def test_small_blurred_and_compressed_pictures_lose_detail():
    rough = frames()[20].astype(float).std()
    assert shown("pixels:96")[20].astype(float).std() == pytest.approx(rough)
    # means of 9 pixels, and of a Gaussian's, of independent noise
    assert damage.pixels(frames(), 32, None)[20].std() < 0.5 * rough
    expected = rough / (2 * np.sqrt(np.pi) * 3)
    assert damage.blur(frames(), 3, None)[20].astype(float).std() == pytest.approx(
        expected, rel=0.2
    )
    losses = [
        np.abs(shown(f"video:{crf}")[20].astype(float) - frames()[20]).mean() for crf in (0, 30, 51)
    ]
    assert losses[0] < 1 < losses[1] < losses[2]
    assert len(shown("video:51")) == 50


@pytest.mark.parametrize(
    "text", ["hum", "clip", "clip:2", "band:radio", "opus:loud", "frozen:-1", "level:nan"]
)
def test_what_is_not_known_is_named(text):
    with pytest.raises(DavssError, match=f"damage '{text}'"):
        parse(text)
