"""Means and confidence intervals of the scores, by noise prior, condition and number of speakers.

A mixture counts once: its speakers' scores are averaged first, because they share one draw of the
sampler. Intervals are 95 % Student intervals over mixtures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas
from scipy import stats

SPEECH_METRICS = (
    "si_sdr_mixture",
    "si_sdr",
    "si_sdri",
    "pesq_mixture",
    "pesq",
    "estoi_mixture",
    "estoi",
)
COST_METRICS = ("residual_db", "seconds_taken", "evaluations")
BETTER, UNSURE, WORSE, NONE = "better", "unsure", "worse", "none"


@dataclass(frozen=True)
class Group:
    """Results of one noise prior, condition and number of speakers.

    `mean` and `interval` (half width, 95 %) by metric name: those of speech, `noise_si_sdr` of the
    noise, and the cost of a mixture; NaN where there is nothing to average.
    """

    prior: str
    condition: str
    num_speakers: int
    mixtures: int
    failed: int
    mean: Mapping[str, float]
    interval: Mapping[str, float]

    @property
    def matched(self) -> bool:
        """Whether the noise prior was trained on this kind of noise."""
        return self.prior == self.condition

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the mixture in SI-SDR, `unsure` if the interval holds 0."""
        gain, margin = self.mean["si_sdri"], self.interval["si_sdri"]
        if math.isnan(gain):
            return NONE
        if gain <= 0:
            return WORSE
        return BETTER if gain - margin > 0 else UNSURE  # no interval: one mixture proves nothing


def summarise(scores: pandas.DataFrame, estimates: pandas.DataFrame) -> list[Group]:
    """Groups in the order of `scores`.

    `scores` has the columns of the score stage; `estimates` those of the separate stage and prior.
    """
    groups = []
    for (prior, condition, count), rows in scores.groupby(
        ["prior", "condition", "num_speakers"], sort=False
    ):
        speech = rows[rows.source != "noise"]
        noise = rows[rows.source == "noise"].set_index("key")["si_sdr"].rename("noise_si_sdr")
        values = _finite(speech.set_index("key")[list(SPEECH_METRICS)])
        # skipna would let a mixture of which one speaker failed count by the others.
        per_mixture = values.groupby(level=0).agg(lambda column: column.mean(skipna=False))
        failed = int(per_mixture.si_sdri.isna().sum())
        own = estimates[(estimates.prior == prior) & estimates.key.isin(per_mixture.index)]
        cost = _finite(own[own.error.isna()].set_index("key")[list(COST_METRICS)])
        columns = [per_mixture[name] for name in SPEECH_METRICS]
        columns += [_finite(noise), *(cost[name] for name in COST_METRICS)]
        summary = {str(column.name): _mean_interval(column) for column in columns}
        groups.append(
            Group(
                prior=str(prior),
                condition=str(condition),
                num_speakers=int(count),
                mixtures=len(per_mixture),
                failed=failed,
                mean={name: value[0] for name, value in summary.items()},
                interval={name: value[1] for name, value in summary.items()},
            )
        )
    return groups


def as_metrics(groups: list[Group]) -> dict[str, Any]:
    """The groups as nested plain values for `dvc metrics`: prior → condition → speakers_K →
    metric.
    """
    result: dict[str, Any] = {}
    for group in groups:
        values: dict[str, Any] = {"mixtures": group.mixtures, "failed": group.failed}
        for name, mean in group.mean.items():
            values[name] = _plain(mean)
            if name in {"si_sdr", "si_sdri"}:
                values[f"{name}_interval"] = _plain(group.interval[name])
        conditions = result.setdefault(group.prior, {}).setdefault(group.condition, {})
        conditions[f"speakers_{group.num_speakers}"] = values
    return result


def _finite(values: Any) -> Any:
    return values.astype(float).replace([math.inf, -math.inf], math.nan)


def _mean_interval(column: pandas.Series) -> tuple[float, float]:
    values = column.dropna().to_numpy()
    if len(values) == 0:
        return math.nan, math.nan
    if len(values) == 1:
        return float(values[0]), math.nan
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * error)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
