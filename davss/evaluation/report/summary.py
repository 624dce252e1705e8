"""Means and confidence intervals of the scores, by noise model, condition and number of speakers.

A mixture counts once: its speakers' scores are averaged first, because they share one draw of the
sampler. Intervals are 95 % Student intervals over mixtures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
# How the noise models without training are called; any other is a prior, named by its corpus.
UNTRAINED = {"nmf": "NMF", "gaussian": "stationary Gaussian", "none": "none"}
# What the noise prior is held against, and by how much the paper says it wins (SI-SDR in dB).
BASELINE, CLAIMED_DB = "nmf", 2.0


@dataclass(frozen=True)
class Group:
    """Results of one noise model, condition and number of speakers.

    `mean` and `interval` (half width, 95 %) by metric name: those of speech, `noise_si_sdr` of the
    noise, and the cost of a mixture; NaN where there is nothing to average.
    """

    noise_model: str
    condition: str
    num_speakers: int
    mixtures: int
    failed: int
    mean: Mapping[str, float]
    interval: Mapping[str, float]

    @property
    def matched(self) -> bool:
        """Whether the noise prior was trained on this kind of noise."""
        return self.noise_model == self.condition

    @property
    def trained(self) -> bool:
        """Whether the noise model is a trained prior."""
        return self.noise_model not in UNTRAINED

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the mixture in SI-SDR, `unsure` if the interval holds 0."""
        gain, margin = self.mean["si_sdri"], self.interval["si_sdri"]
        if math.isnan(gain):
            return NONE
        if gain <= 0:
            return WORSE
        return BETTER if gain - margin > 0 else UNSURE  # no interval: one mixture proves nothing


@dataclass(frozen=True)
class Difference:
    """SI-SDR of a trained noise prior minus the baseline's over the same mixtures, in dB.

    `interval` is the half width (95 %), `mixtures` those that both have separated; condition and
    num_speakers are None where the difference is over all of them.
    """

    noise_model: str
    condition: str | None
    num_speakers: int | None
    mixtures: int
    mean: float
    interval: float

    @property
    def verdict(self) -> str:
        """`better` if the paper's claim holds, `unsure` if only the mean does, else `worse`."""
        if math.isnan(self.mean):
            return NONE
        if self.mean <= CLAIMED_DB:
            return WORSE
        return BETTER if self.mean - self.interval > CLAIMED_DB else UNSURE


def summarise(scores: pandas.DataFrame, estimates: pandas.DataFrame) -> list[Group]:
    """Groups in the order of `scores`.

    `scores` has the columns of the score stage; `estimates` those of the separate stage, and
    noise_model.
    """
    groups = []
    for (model, condition, count), rows in scores.groupby(
        ["noise_model", "condition", "num_speakers"], sort=False
    ):
        speech = rows[rows.source != "noise"]
        noise = rows[rows.source == "noise"].set_index("key")["si_sdr"].rename("noise_si_sdr")
        per_mixture = _per_mixture(speech, ["key"], SPEECH_METRICS)
        failed = int(per_mixture.si_sdri.isna().sum())
        own = estimates[(estimates.noise_model == model) & estimates.key.isin(per_mixture.index)]
        cost = _finite(own[own.error.isna()].set_index("key")[list(COST_METRICS)])
        columns = [per_mixture[name] for name in SPEECH_METRICS]
        columns += [_finite(noise), *(cost[name] for name in COST_METRICS)]
        summary = {str(column.name): _mean_interval(column) for column in columns}
        groups.append(
            Group(
                noise_model=str(model),
                condition=str(condition),
                num_speakers=int(count),
                mixtures=len(per_mixture),
                failed=failed,
                mean={name: value[0] for name, value in summary.items()},
                interval={name: value[1] for name, value in summary.items()},
            )
        )
    return groups


def paired_differences(scores: pandas.DataFrame) -> list[Difference]:
    """Every trained prior against the baseline: over all mixtures, then by condition and number of
    speakers. Empty where either is missing.
    """
    speech = scores[scores.source != "noise"]
    settings = speech[["condition", "num_speakers"]].drop_duplicates()
    index = ["noise_model", "condition", "num_speakers", "key"]
    values = _per_mixture(speech, index, ["si_sdr"]).si_sdr.unstack("noise_model")
    if BASELINE not in values:
        return []
    found = []
    for model in speech.noise_model.unique():
        if model in UNTRAINED:
            continue
        gains = values[model] - values[BASELINE]  # NaN unless both have the mixture
        found.append(_difference(gains, model, None, None))
        for condition, count in settings.itertuples(index=False):
            own = gains.xs((condition, count), level=("condition", "num_speakers"))
            found.append(_difference(own, model, condition, int(count)))
    return found


def _difference(
    gains: pandas.Series, model: str, condition: str | None, count: int | None
) -> Difference:
    return Difference(model, condition, count, int(gains.count()), *_mean_interval(gains))


def as_metrics(groups: Sequence[Group], differences: Sequence[Difference] = ()) -> dict[str, Any]:
    """Plain values for `dvc metrics`: noise model → condition → speakers_K → metric, and under
    noise_models MODEL_minus_BASELINE → all, or condition → speakers_K.
    """
    result: dict[str, Any] = {}
    for group in groups:
        values: dict[str, Any] = {"mixtures": group.mixtures, "failed": group.failed}
        for name, mean in group.mean.items():
            values[name] = _plain(mean)
            if name in {"si_sdr", "si_sdri"}:
                values[f"{name}_interval"] = _plain(group.interval[name])
        conditions = result.setdefault(group.noise_model, {}).setdefault(group.condition, {})
        conditions[f"speakers_{group.num_speakers}"] = values
    for one in differences:
        pairs = result.setdefault("noise_models", {})
        place = pairs.setdefault(f"{one.noise_model}_minus_{BASELINE}", {})
        name = "all"
        if one.condition is not None:
            place, name = place.setdefault(one.condition, {}), f"speakers_{one.num_speakers}"
        place[name] = {
            "mixtures": one.mixtures,
            "si_sdr": _plain(one.mean),
            "si_sdr_interval": _plain(one.interval),
        }
    return result


def _per_mixture(
    speech: pandas.DataFrame, index: list[str], metrics: Sequence[str]
) -> pandas.DataFrame:
    values = _finite(speech.set_index(index)[list(metrics)])
    # skipna would let a mixture of which one speaker failed count by the others.
    return values.groupby(level=index).agg(lambda column: column.mean(skipna=False))


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
