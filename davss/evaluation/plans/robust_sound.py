"""One speaker whom nobody sees, the recording damaged in many ways: what is left of the gain?"""

from __future__ import annotations

from typing import Any

import pandas
from matplotlib.figure import Figure

from davss.config import ExperimentConfig
from davss.evaluation.damage import parse
from davss.evaluation.material import Material, make_row
from davss.evaluation.mixtures import OFF_SCREEN
from davss.evaluation.plots import SI_SDR, UNDAMAGED, damage_kinds, damage_panel, legend
from davss.evaluation.statistics import columns, difference, figures, per_mixture, strata
from davss.evaluation.trials import Arm, Trial, cross


def plan(material: Material) -> list[Trial]:
    """The same mixtures, and random numbers, with every damage and without."""
    snr_db = material.config.conditions_snr_db
    rows = [
        make_row(material, "sound", index, [OFF_SCREEN], snr_db=snr_db)
        for index in range(material.config.mixtures)
    ]
    return damaged(material, rows, material.config.sound_damage)


def damaged(material: Material, rows: list[dict[str, Any]], texts: tuple[str, ...]) -> list[Trial]:
    """All rows without damage, then with each of `texts`."""
    for text in texts:
        parse(text)  # a slip in a name is found before anything is separated
    arm = Arm(material.config.damage_noise, material.config.damage_noise, material.sampler)
    return cross([arm], [row | {"damage": text} for text in ("", *texts) for row in rows])


def table(rows: pandas.DataFrame, config: ExperimentConfig) -> pandas.DataFrame:
    """Per damage: SI-SDR of mixture and estimate, and what was lost to it on the same mixtures."""
    lines = []
    for who, own in strata(rows):
        whole = per_mixture(own[own.damage == ""])
        for text, some in own.groupby("damage", sort=False):
            line: dict[str, Any] = {"damage": text or UNDAMAGED, "who": who, **figures(some)}
            if text:
                line |= columns("lost", difference(whole, per_mixture(some)))
            lines.append(line)
    return pandas.DataFrame(lines)


def plot(figure: Figure, table: pandas.DataFrame) -> None:
    """A panel per kind of damage: SI-SDR of the estimate and of the mixture."""
    kinds = damage_kinds(table)
    across = min(len(kinds), 4)
    down = -(-len(kinds) // across)
    figure.set_size_inches(2.4 * across + 0.6, 2.4 * down + 0.6)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes, kind in zip(panels, kinds, strict=False):
        damage_panel(axes, table, kind)
        axes.set_title(kind, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in panels[len(kinds) :]:
        axes.set_axis_off()
    for axes in panels[::across]:
        axes.set_ylabel(SI_SDR, fontsize=8)
    figure.suptitle(f"{table.who.iloc[0]} speakers", fontsize=10)
    legend(panels[0])
