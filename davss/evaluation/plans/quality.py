"""The samplers of `cost` on the mixtures of the stage `mixtures`, for every number of speakers."""

from __future__ import annotations

import pandas
from matplotlib.figure import Figure

from davss.config import ExperimentConfig
from davss.evaluation.material import Material
from davss.evaluation.plans import cost
from davss.evaluation.statistics import interval, per_mixture, strata
from davss.evaluation.trials import Trial, cross


def plan(material: Material) -> list[Trial]:
    """Every sampler on every mixture."""
    return cross(cost.arms(material), material.mixtures)


def table(rows: pandas.DataFrame, config: ExperimentConfig) -> pandas.DataFrame:
    """The table of `cost`, with the mean gain in SI-SDR of every number of speakers."""
    found = cost.table(rows, config)
    counts = sorted(set(rows.num_speakers))
    for who, own in strata(rows):
        for (arm, count), some in own.groupby(["arm", "num_speakers"]):
            place = (found.sampler == arm) & (found.who == who)
            found.loc[place, f"K = {count}"] = interval(per_mixture(some, "si_sdri")).mean
    return found[[*(c for c in found if not c.startswith("K =")), *(f"K = {k}" for k in counts)]]


def plot(figure: Figure, table: pandas.DataFrame) -> None:
    """The gain against evaluations: mixtures of other numbers of speakers have other levels."""
    cost.plot(figure, table, "si_sdri")
