"""Means, intervals and differences of scores: what tables, plots and the report state.

A value of a mixture is the mean over those of its speakers that are asked about, because they share
one draw of the sampler; means, and intervals by Student's t, are over mixtures. Differences are of
the same mixtures. A mixture that failed has no value. Speakers and scenes that training knew are
never averaged with others: see `strata`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas
from scipy import stats

LEVEL = 0.95
STRATA = {False: "unseen", True: "seen", None: "unknown"}  # of speakers: the headline first

Values: TypeAlias = "Sequence[float] | np.ndarray | pandas.Series"


class Interval(NamedTuple):
    """A mean, half of its 95 % interval and the number of values; NaN where there are too few."""

    mean: float
    half: float
    items: int


def interval(values: Values) -> Interval:
    """Student's interval of the mean of independent items; what is not finite is left out."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return Interval(float(finite.mean()) if len(finite) else math.nan, math.nan, len(finite))
    half = stats.t.ppf((1 + LEVEL) / 2, len(finite) - 1) * finite.std(ddof=1) / len(finite) ** 0.5
    return Interval(float(finite.mean()), float(half), len(finite))


def difference(first: pandas.Series, second: pandas.Series) -> Interval:
    """The paired interval of first − second over the items that both have."""
    return interval(first - second)


def share_interval(right: pandas.Series | np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson), of the items that are True; NaN without items."""
    if len(right) == 0:
        return math.nan, math.nan
    found = stats.binomtest(int(np.sum(right)), len(right)).proportion_ci(LEVEL, "wilson")
    return float(found.low), float(found.high)


def per_mixture(
    rows: pandas.DataFrame, column: str = "si_sdr", by: str | list[str] = "key"
) -> pandas.Series:
    """Mean over the speakers of every mixture; NaN where one of them has no finite value."""
    values = rows.set_index(by)[column].astype(float).replace([math.inf, -math.inf], math.nan)
    # skipna would let a mixture of which one speaker failed count by the others
    return values.groupby(level=by, sort=False).agg(lambda own: own.mean(skipna=False))


def strata(rows: pandas.DataFrame) -> Iterator[tuple[str, pandas.DataFrame]]:
    """The rows of speakers that no prior was trained on, of those one was, and of those of whom
    that is not known; what is empty is left out.
    """
    named = stratum(rows.speaker_seen)
    for name in STRATA.values():
        if (named == name).any():
            yield name, rows[named == name]


def stratum(seen: pandas.Series) -> pandas.Series:
    """unseen, seen or unknown, of a column with False, True and None."""
    return seen.map(lambda one: STRATA[None if pandas.isna(one) else bool(one)]).astype(object)


def figures(rows: pandas.DataFrame) -> dict[str, Any]:
    """What every table says of the rows of one cell: si_sdr and its interval, how many mixtures and
    how many of them failed, si_sdr_mixture, and si_sdri with its interval.
    """
    values = per_mixture(rows)
    found: dict[str, Any] = columns("si_sdr", interval(values))
    found |= {"mixtures": len(values), "failed": int(values.isna().sum())}
    found["si_sdr_mixture"] = interval(per_mixture(rows, "si_sdr_mixture")).mean
    return found | columns("si_sdri", interval(per_mixture(rows, "si_sdri")))


def columns(name: str, found: Interval) -> dict[str, float]:
    """A mean and its interval as columns of a table."""
    return {name: found.mean, f"{name}_ci": found.half}
