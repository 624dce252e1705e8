"""Mixtures: levels as the plan says, distinct speakers, deterministic, clear refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from davss.config import MixturesConfig
from davss.errors import DavssError
from davss.evaluation.mixtures import plan_mixtures, render, rows_of
from davss.evaluation.trials import Arm, Trial
from davss.shards.contract import Clip

RATE = 8000
CONFIG = MixturesConfig(per_num_speakers=6, seconds=2.0)


@dataclass(frozen=True)
class Reader:
    """Clips in memory behind ShardReader's face."""

    stored: dict[str, Clip]
    sample_rate: int = RATE
    manifest: Path = Path("test.clips.parquet")

    @property
    def clips(self) -> pandas.DataFrame:
        rows = [
            {
                "key": key,
                "speaker": clip.meta["speaker"],
                "num_samples": len(clip.audio),
                "num_frames": 0 if clip.lips is None else len(clip.lips),
            }
            for key, clip in self.stored.items()
        ]
        return pandas.DataFrame(rows)

    def __contains__(self, key: str) -> bool:
        return key in self.stored

    def __getitem__(self, key: str) -> Clip:
        return self.stored[key]


def make_reader(prefix: str, seconds: list[float], speakers: int, with_lips: bool) -> Reader:
    clips = {}
    for index, length in enumerate(seconds):
        rng = np.random.default_rng([index, with_lips])
        frames = round(25 * length)
        audio = rng.uniform(0.01, 0.3) * rng.standard_normal(frames * RATE // 25)
        audio[: RATE // 2] = 0  # a pause at the start
        lips = np.arange(frames, dtype=np.float32)[:, None] if with_lips else None
        meta = {"speaker": f"id{index % speakers}"}
        clip = Clip(f"{prefix}-{index}", audio.astype(np.float32), RATE, lips, meta)
        clips[clip.key] = clip
    return Reader(clips)


@pytest.fixture
def speech() -> Reader:
    return make_reader("s", [3, 4, 2, 5, 3, 1, 4, 3], speakers=4, with_lips=True)


@pytest.fixture
def noise() -> Reader:
    return make_reader("n", [1, 6, 10], speakers=1, with_lips=False)


def decibel(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(one.astype(float) ** 2) / np.mean(other.astype(float) ** 2)))


def test_rendered_levels_are_the_planned_ones(speech, noise):
    plan = plan_mixtures(speech, noise, CONFIG, "wham", seed=0)
    assert list(plan.num_speakers) == [1] * 6 + [2] * 6 + [3] * 6
    assert set(plan.sir_db.dropna()) == {0.0, 5.0}
    for row in rows_of(plan):
        mixture = render(row, speech, noise)
        assert abs(decibel(mixture.speech.sum(0), mixture.noise) - row["snr_db"]) < 0.1
        assert 0 <= row["snr_db"] <= 10
        for other in mixture.speech[1:]:
            assert abs(decibel(mixture.speech[0], other) - row["sir_db"]) < 0.1
        level = 20 * np.log10(np.sqrt(np.mean(mixture.mixture**2)))
        assert abs(level + 25) < 0.1
        total = mixture.speech.sum(0) + mixture.noise
        np.testing.assert_allclose(mixture.mixture, total, atol=1e-6)
        assert mixture.mixture.shape == (2 * RATE,)
        assert mixture.mixture.dtype == np.float32


def test_speakers_are_distinct_and_lips_belong_to_the_segment(speech, noise):
    for row in rows_of(plan_mixtures(speech, noise, CONFIG, "wham", seed=0)):
        clips = [speech[key] for key in row["speech_keys"]]
        assert len({clip.meta["speaker"] for clip in clips}) == row["num_speakers"]
        assert all(len(clip.audio) >= 2 * RATE for clip in clips)
        assert row["noise_key"] in {"n-1", "n-2"}
        mixture = render(row, speech, noise)
        assert mixture.lips.shape == (row["num_speakers"], 50, 1)
        for lips, first, clip, source, gain in zip(
            mixture.lips,
            row["speech_offsets"],
            clips,
            mixture.speech,
            row["speech_gains"],
            strict=True,
        ):
            assert list(lips[:, 0]) == list(range(first, first + 50))
            start = first * RATE // 25
            segment = clip.audio[start : start + 2 * RATE]
            np.testing.assert_allclose(source, gain * segment, rtol=1e-5, atol=1e-7)


def test_plan_is_deterministic_and_paired_between_conditions(speech, noise):
    plan = plan_mixtures(speech, noise, CONFIG, "wham", seed=0)
    pandas.testing.assert_frame_equal(plan, plan_mixtures(speech, noise, CONFIG, "wham", seed=0))
    other = plan_mixtures(speech, noise, CONFIG, "dns", seed=0)
    assert list(other.speech_keys) == list(plan.speech_keys)
    assert list(other.sir_db.dropna()) == list(plan.sir_db.dropna())
    assert list(other.noise_offset) != list(plan.noise_offset)
    assert not set(other.key) & set(plan.key)
    assert list(plan_mixtures(speech, noise, CONFIG, "wham", 1).snr_db) != list(plan.snr_db)


def test_more_mixtures_leave_the_first_as_they_were(speech, noise):
    few = plan_mixtures(speech, noise, replace(CONFIG, per_num_speakers=2), "wham", seed=0)
    many = plan_mixtures(speech, noise, CONFIG, "wham", seed=0)
    kept = many[many.key.isin(few.key)].reset_index(drop=True)
    pandas.testing.assert_frame_equal(few, kept)


def test_plan_survives_parquet(speech, noise, tmp_path):
    plan = plan_mixtures(speech, noise, CONFIG, "wham", seed=0)
    plan.to_parquet(tmp_path / "plan.parquet")
    stored = list(rows_of(pandas.read_parquet(tmp_path / "plan.parquet")))
    for row, again in zip(rows_of(plan), stored, strict=True):
        first, second = render(row, speech, noise), render(again, speech, noise)
        assert np.array_equal(first.mixture, second.mixture)


def test_pauses_are_avoided(noise):
    rng = np.random.default_rng(0)
    audio = 1e-4 * rng.standard_normal(10 * RATE)
    audio[6 * RATE : 8 * RATE] += 0.2 * rng.standard_normal(2 * RATE)
    clip = Clip("s-0", audio.astype(np.float32), RATE, None, {"speaker": "id0"})
    config = replace(CONFIG, num_speakers=(1,), per_num_speakers=20)
    plan = plan_mixtures(Reader({"s-0": clip}), noise, config, "wham", seed=0)
    starts = np.array([offsets[0] for offsets in plan.speech_offsets]) / 25
    assert starts.min() > 4
    assert starts.max() < 8


def test_too_few_speakers(noise):
    speech = make_reader("s", [3, 3, 3], speakers=2, with_lips=True)
    with pytest.raises(DavssError, match="2 speakers .* too few for mixtures of 3"):
        plan_mixtures(speech, noise, CONFIG, "wham", seed=0)


def test_nothing_long_enough(speech, noise):
    short = make_reader("n", [1.0, 1.5], speakers=1, with_lips=False)
    with pytest.raises(DavssError, match="no clip lasts the 2 s of a mixture"):
        plan_mixtures(speech, short, CONFIG, "wham", seed=0)
    with pytest.raises(DavssError, match="no clip lasts the 20 s"):
        plan_mixtures(speech, noise, replace(CONFIG, seconds=20.0), "wham", seed=0)


def test_rates_must_agree(speech, noise):
    with pytest.raises(DavssError, match="16000 Hz, but .* has 8000 Hz"):
        plan_mixtures(speech, replace(noise, sample_rate=16_000), CONFIG, "wham", seed=0)


def test_changed_shards_are_noticed(speech, noise):
    row = next(rows_of(plan_mixtures(speech, noise, CONFIG, "wham", seed=0)))
    row["noise_offset"] = 10**9
    with pytest.raises(DavssError, match="wham-k1-0000: clip n-. is not as planned"):
        render(row, speech, noise)


def test_damage_is_done_to_the_mixture_alone_and_named_in_the_digest(speech, noise):
    row = next(iter(rows_of(plan_mixtures(speech, noise, CONFIG, "wham", seed=0))))
    clean, damaged = row, row | {"damage": "level:-20"}
    before, after = render(clean, speech, noise), render(damaged, speech, noise)
    np.testing.assert_allclose(after.mixture, before.mixture / 10, rtol=1e-6)
    np.testing.assert_array_equal(after.speech, before.speech)
    np.testing.assert_array_equal(after.lips, before.lips)
    arm = Arm("gaussian", "gaussian", None)
    names = {Trial(arm, row | {"damage": text}).name for text in ("level:-20", "level:-21", "")}
    assert len(names) == 3 and Trial(arm, row).name not in names


def test_damaged_pictures_are_asked_for_where_a_clip_is_seen(speech, noise):
    row = next(iter(rows_of(plan_mixtures(speech, noise, CONFIG, "wham", seed=0))))
    row |= {"damage": "blur:4"}
    with pytest.raises(DavssError, match="k1-0000: 'blur:4' needs the clips' videos"):
        render(row, speech, noise)

    def pictures(clip, text, first, count, rng):
        assert (first, count, text) == (row["speech_offsets"][0], 50, "blur:4")
        return clip.lips + rng.random()

    one, other = (render(row, speech, noise, pictures) for _ in range(2))
    right = render(row | {"damage": ""}, speech, noise)
    np.testing.assert_array_equal(one.lips, other.lips)
    np.testing.assert_array_equal(one.mixture, right.mixture)
    assert 0 < (one.lips - right.lips).max() < 1
