"""Two sentences of one person: guidance weights with right lips, and other lips at one weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas
from matplotlib.figure import Figure

from davss.config import ExperimentConfig
from davss.evaluation.material import Material, make_row
from davss.evaluation.mixtures import IN_VIEW
from davss.evaluation.plots import SI_SDR, legend, row_of_axes
from davss.evaluation.statistics import (
    columns,
    difference,
    figures,
    interval,
    per_mixture,
    share_interval,
    strata,
)
from davss.evaluation.trials import Arm, Trial, cross


def plan(material: Material) -> list[Trial]:
    """Right lips at every weight; late, wrong and no lips."""
    config, sampler = material.config, material.sampler
    weighted = replace(sampler, guidance_weight=config.lips_weight)
    arms = [
        Arm(f"right, w {weight:g}", config.noise, replace(sampler, guidance_weight=weight))
        for weight in config.guidance_weights
    ]
    arms += [
        Arm(f"late by {shift:g} s, w {config.lips_weight:g}", config.noise, weighted, "late", shift)
        for shift in config.lips_shifts
    ]
    arms.append(Arm(f"wrong, w {config.lips_weight:g}", config.noise, weighted, "wrong"))
    arms.append(Arm("none", config.noise, replace(sampler, guidance_weight=0.0), "none"))
    rows = [
        make_row(material, "same", index, [IN_VIEW, IN_VIEW], snr_db=config.lips_snr_db)
        for index in range(config.mixtures)
    ]
    return cross(arms, rows)


def table(rows: pandas.DataFrame, config: ExperimentConfig) -> pandas.DataFrame:
    """Per arm: SI-SDR with each estimate against its own speaker, how often that is better than
    the swapped assignment, SI-SDR of the better one, and what right lips of the same weight gain.
    """
    lines = []
    for who, every in strata(rows):
        for arm, some in every.groupby("arm", sort=False):
            fixed, swapped = per_mixture(some), per_mixture(some, "si_sdr_other")
            right = (fixed > swapped)[fixed.notna()]
            line: dict[str, Any] = {"lips": arm, "who": who, **figures(some)}
            line["assigned_right"] = right.mean()
            line |= dict(zip(("assigned_low", "assigned_high"), share_interval(right), strict=True))
            line["si_sdr_better"] = interval(np.fmax(fixed, swapped)).mean
            for source in (1, 2):
                own = some.si_sdr[some.source == f"speaker_{source}"]
                line[f"si_sdr_{source}"] = interval(own).mean
            own = every[every.arm == f"right, {str(arm).rpartition(', ')[2]}"]
            if len(own) and not str(arm).startswith("right"):
                line |= columns("right_minus", difference(per_mixture(own), fixed))
            lines.append(line)
    return pandas.DataFrame(lines)


def plot(figure: Figure, table: pandas.DataFrame) -> None:
    """SI-SDR, and how often the assignment is right, by arm."""
    left, right = row_of_axes(figure, 2, sharey=True)
    table = table[table.who == table.who.iloc[0]]
    places = np.arange(len(table))[::-1]
    left.barh(places, table.si_sdr, xerr=table.si_sdr_ci, capsize=3)
    left.plot(table.si_sdr_better, places, "k|", markersize=12, label="better assignment")
    legend(left)
    left.set_yticks(places, table.lips)
    left.set_xlabel(SI_SDR)
    share = 100 * table.assigned_right
    below, above = share - 100 * table.assigned_low, 100 * table.assigned_high - share
    right.errorbar(share, places, xerr=[below.clip(0), above.clip(0)], fmt="o", capsize=3)
    right.axvline(50, color="k", linestyle=":")
    right.set_xlim(0, 102)
    right.set_xlabel("assignment right (%)")
