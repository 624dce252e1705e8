"""Means and intervals against closed forms, and what is not averaged together."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
from scipy import stats

from davss.evaluation import statistics

NAN, INF = math.nan, math.inf


def rows(**columns) -> pandas.DataFrame:
    return pandas.DataFrame(columns)


def test_an_interval_is_students():
    mean, half, count = statistics.interval([1.0, 2.0, 3.0, 4.0, NAN, -INF])
    assert (mean, count) == (2.5, 4)
    assert half == pytest.approx(3.182446 * 1.290994 / 2, rel=1e-5)  # t(0.975; 3) from a table
    assert math.isnan(statistics.interval([1.0]).half)
    assert math.isnan(statistics.interval([]).mean) and statistics.interval([NAN]).items == 0


def test_a_difference_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    first = pandas.Series(rng.normal(3, 5, 20), index=range(20))
    second = pandas.Series(first + rng.normal(-1, 0.5, 20), index=range(20))[::-1]
    second[3] = NAN
    both = first.index != 3
    expected = stats.ttest_rel(first[both], second.sort_index()[both]).confidence_interval(0.95)
    mean, half, count = statistics.difference(first, second)
    assert (mean - half, mean + half) == pytest.approx(tuple(expected)) and count == 19


def test_a_share_has_wilsons_interval():
    low, high = statistics.share_interval(np.ones(6, bool))
    assert (low, high) == pytest.approx((1 / (1 + 1.959964**2 / 6), 1), abs=1e-6)
    assert all(map(math.isnan, statistics.share_interval(np.array([], bool))))


def test_a_mixture_of_which_a_speaker_failed_has_no_value():
    found = statistics.per_mixture(
        rows(key=["b", "b", "a", "a", "c"], si_sdr=[1.0, 3.0, 5.0, NAN, -INF])
    )
    assert found.index.tolist() == ["b", "a", "c"] and found["b"] == 2
    assert found[["a", "c"]].isna().all()


def test_speakers_that_training_knew_are_apart():
    frame = rows(speaker_seen=[True, None, False, True], si_sdr=[1.0, 2.0, 3.0, 4.0])
    found = {who: own.si_sdr.tolist() for who, own in statistics.strata(frame)}
    assert list(found) == ["unseen", "seen", "unknown"], "the headline comes first"
    assert found == {"unseen": [3.0], "seen": [1.0, 4.0], "unknown": [2.0]}


def test_figures_of_a_cell():
    columns = {"si_sdr": [4.0, 6.0, NAN], "si_sdr_mixture": [1.0, 2.0, 3.0]}
    found = statistics.figures(rows(key=["a", "b", "c"], **columns, si_sdri=[3.0, 4.0, NAN]))
    assert (found["si_sdr"], found["mixtures"], found["failed"]) == (5.0, 3, 1)
    assert found["si_sdr_ci"] == pytest.approx(12.7062, rel=1e-4)  # t(0.975; 1), deviation √2 / √2
    assert found["si_sdri"] == 3.5 and found["si_sdr_mixture"] == 2.0
