"""Every noise prior on the test noise of every corpus, the same clips of speech in all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
from matplotlib.figure import Figure

from davss.config import ExperimentConfig
from davss.evaluation.material import Material, by_turns, make_row
from davss.evaluation.plots import SI_SDR, legend
from davss.evaluation.statistics import columns, difference, figures, per_mixture, strata
from davss.evaluation.trials import Arm, Trial, cross


def plan(material: Material) -> list[Trial]:
    """One speaker, in view or off-screen by turns."""
    config = material.config
    rows = [
        make_row(material, noise, index, [by_turns(index)], noise, config.conditions_snr_db)
        for noise in material.noises
        for index in range(config.mixtures)
    ]
    return cross([Arm(prior, prior, material.sampler) for prior in material.noises], rows)


def table(rows: pandas.DataFrame, config: ExperimentConfig) -> pandas.DataFrame:
    """Per prior and noise: SI-SDR, and what is lost against the matched noise with the same prior
    (paired by speech) and against the matched prior on the same mixtures.
    """
    lines = []
    rows = rows.assign(index=rows.key.str.rpartition("-")[2])
    for who, own in strata(rows):
        cells = {cell: some for cell, some in own.groupby(["arm", "condition"], sort=False)}
        by_index = {cell: per_mixture(some, by="index") for cell, some in cells.items()}
        for (prior, condition), some in cells.items():
            line: dict[str, Any] = {"prior": prior, "noise": condition, "who": who}
            line |= figures(some)
            if prior != condition:
                values = by_index[prior, condition]
                to_noise = difference(by_index[prior, prior], values)
                to_prior = difference(by_index[condition, condition], values)
                line |= columns("lost_to_noise", to_noise) | columns("lost_to_prior", to_prior)
            lines.append(line)
    return pandas.DataFrame(lines)


def plot(figure: Figure, table: pandas.DataFrame) -> None:
    """SI-SDR by noise, a bar per prior."""
    axes = figure.add_subplot()
    table = table[table.who == table.who.iloc[0]]
    noises, priors = list(dict.fromkeys(table.noise)), list(dict.fromkeys(table.prior))
    width = 0.8 / len(priors)
    for number, prior in enumerate(priors):
        own = table[table.prior == prior].set_index("noise").loc[noises]
        places = np.arange(len(noises)) + width * (number - (len(priors) - 1) / 2)
        axes.bar(places, own.si_sdr, 0.9 * width, yerr=own.si_sdr_ci, capsize=4, label=prior)
    axes.set_xticks(range(len(noises)), [f"test noise of {noise}" for noise in noises])
    axes.set_ylabel(SI_SDR)
    axes.set_title(f"{table.who.iloc[0]} speakers")
    legend(axes, title="prior")
