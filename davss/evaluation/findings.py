"""What the experiments found: results of trials into tables with 95 % intervals.

A value of a mixture is the mean over the speakers that a line is about; means, and intervals by
Student's t, are over mixtures. Differences are of the same mixtures, or of the same index, where
their speech is the same. Mixtures that diverged have no value and are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas
from scipy import stats

from davss.config import ExperimentName
from davss.evaluation.experiments import Trial

LEVEL = 0.95


def results_frame(trials: Sequence[Trial], results: Sequence[dict[str, Any]]) -> pandas.DataFrame:
    """One line per trial and speaker: arm, prior, key, index, condition, num_speakers, snr_db,
    pool, si_sdr, si_sdr_swapped (of the other estimate; NaN for one speaker), si_sdr_mixture,
    si_sdri, evaluations, seconds, error.
    """
    lines = []
    for trial, result in zip(trials, results, strict=True):
        row, matrix = trial.row, np.array(result["si_sdr"], float)
        for index, pool in enumerate(row["pool"]):
            before = result["si_sdr_mixture"][index]
            lines.append(
                {
                    "arm": trial.arm.name,
                    "prior": trial.arm.noise,
                    "key": row["key"],
                    "index": int(row["key"].rsplit("-", 1)[1]),
                    "condition": row["condition"],
                    "num_speakers": row["num_speakers"],
                    "snr_db": row["snr_db"],
                    "pool": pool,
                    "source": index + 1,
                    "si_sdr": matrix[index, index],
                    "si_sdr_swapped": matrix[1 - index, index] if len(matrix) == 2 else math.nan,
                    "si_sdr_mixture": before,
                    "si_sdri": matrix[index, index] - before,
                    "evaluations": result["evaluations"],
                    "seconds": result["seconds"],
                    "error": result["error"],
                }
            )
    return pandas.DataFrame(lines)


def interval(values: Sequence[float] | np.ndarray | pandas.Series) -> tuple[float, float, int]:
    """Mean, half of its 95 % interval (Student's t, over items) and the number of finite values."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return float(finite.mean()) if len(finite) else math.nan, math.nan, len(finite)
    half = stats.t.ppf((1 + LEVEL) / 2, len(finite) - 1) * finite.std(ddof=1) / len(finite) ** 0.5
    return float(finite.mean()), float(half), len(finite)


def per_mixture(frame: pandas.DataFrame, column: str = "si_sdr") -> pandas.Series:
    """Mean over the speakers of every mixture, by key; NaN where a speaker has no value."""
    return frame.groupby("key", sort=False)[column].agg(lambda values: values.mean(skipna=False))


def difference(first: pandas.Series, second: pandas.Series) -> tuple[float, float, int]:
    """Mean of first − second over the items both have, with its interval."""
    return interval((first - second).dropna())


def table(name: ExperimentName, frame: pandas.DataFrame, noise: str) -> pandas.DataFrame:
    """The lines of an experiment's table; `noise` is the prior that others are compared to."""
    tables: dict[str, Callable[[], pandas.DataFrame]] = {
        "noise_models": lambda: noise_models(frame, noise),
        "lips": lambda: lips(frame),
        "conditions": lambda: conditions(frame),
        "cost": lambda: cost(frame),
    }
    return tables[name]()


def noise_models(frame: pandas.DataFrame, noise: str) -> pandas.DataFrame:
    """Per number of speakers, SNR, who it is about, and model: SI-SDR, what is gained, and how
    much better the diffusion prior is on the same mixtures.
    """
    lines = []
    for (count, snr_db), cell in frame.groupby(["num_speakers", "snr_db"]):
        for pool in ("all", *dict.fromkeys(cell.pool)):
            own = cell if pool == "all" else cell[cell.pool == pool]
            best = per_mixture(own[own.arm == noise])
            for arm in dict.fromkeys(own.arm):
                some = own[own.arm == arm]
                line = {"speakers": count, "snr_db": snr_db, "who": pool, "model": arm}
                line |= _figures(some) | _columns("si_sdri", interval(per_mixture(some, "si_sdri")))
                if arm != noise:
                    line |= _columns("diffusion_minus", difference(best, per_mixture(some)))
                lines.append(line)
    return pandas.DataFrame(lines)


def lips(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Per arm: SI-SDR with each estimate against its own speaker, how often that is better than
    the swapped assignment, SI-SDR of the better one, and what right lips of the same weight gain.
    """
    lines = []
    weights = {arm: arm.rpartition(", ")[2] for arm in dict.fromkeys(frame.arm)}
    for arm, weight in weights.items():
        some = frame[frame.arm == arm]
        fixed, swapped = per_mixture(some), per_mixture(some, "si_sdr_swapped")
        right = (fixed > swapped)[fixed.notna()]
        line: dict[str, Any] = {"lips": arm, **_figures(some), "assigned_right": right.mean()}
        line |= dict(zip(("assigned_low", "assigned_high"), share_interval(right), strict=True))
        better = np.fmax(fixed, swapped)
        line["si_sdr_better"] = interval(better)[0]
        for source in (1, 2):
            line[f"si_sdr_{source}"] = interval(some.si_sdr[some.source == source])[0]
        own = frame[frame.arm == f"right, {weight}"]
        if len(own) and not arm.startswith("right"):
            line |= _columns("right_minus", difference(per_mixture(own), fixed))
        lines.append(line)
    return pandas.DataFrame(lines)


def share_interval(right: pandas.Series | np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson), of the items that are True; NaN without items."""
    if len(right) == 0:
        return math.nan, math.nan
    found = stats.binomtest(int(np.sum(right)), len(right)).proportion_ci(LEVEL, "wilson")
    return float(found.low), float(found.high)


def conditions(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Per prior and noise: SI-SDR, and what is lost against the matched noise with the same prior
    (paired by speech) and against the matched prior on the same mixtures.
    """
    cells = {cell: some for cell, some in frame.groupby(["prior", "condition"], sort=False)}
    by_index = {cell: some.set_index("index").si_sdr for cell, some in cells.items()}
    lines = []
    for (prior, condition), some in cells.items():
        line: dict[str, Any] = {"prior": prior, "noise": condition, **_figures(some)}
        line |= _columns("si_sdri", interval(some.si_sdri))
        if prior != condition:
            own = by_index[prior, condition]
            line |= _columns("lost_to_noise", difference(by_index[prior, prior], own))
            line |= _columns("lost_to_prior", difference(by_index[condition, condition], own))
        lines.append(line)
    return pandas.DataFrame(lines)


def cost(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Per sampler: evaluations of each network, seconds of a mixture, SI-SDR and what is gained."""
    lines = []
    for arm, some in frame.groupby("arm", sort=False):
        line: dict[str, Any] = {"sampler": arm, "evaluations": int(some.evaluations.iloc[0])}
        line |= {"seconds": some.seconds.median(), **_figures(some)}
        lines.append(line | _columns("si_sdri", interval(some.si_sdri)))
    return pandas.DataFrame(lines).sort_values("evaluations", kind="stable", ignore_index=True)


def _figures(some: pandas.DataFrame) -> dict[str, Any]:
    values = per_mixture(some)
    figures = _columns("si_sdr", interval(values))
    figures["mixtures"] = len(values)
    figures["failed"] = int(values.isna().sum())
    return figures | {"si_sdr_mixture": interval(per_mixture(some, "si_sdr_mixture"))[0]}


def _columns(name: str, found: tuple[float, float, int]) -> dict[str, float]:
    return {name: found[0], f"{name}_ci": found[1]}
