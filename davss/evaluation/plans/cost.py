"""Samplers of different cost on the same mixtures of one speaker; their guidance weight is that of
the section `sampler`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas
from matplotlib.figure import Figure

from davss.config import PRESETS, ExperimentConfig, SamplerConfig
from davss.errors import DavssError
from davss.evaluation.material import Material, by_turns, make_row
from davss.evaluation.plots import SI_SDR, legend
from davss.evaluation.statistics import figures, strata
from davss.evaluation.trials import Arm, Trial, cross


def plan(material: Material) -> list[Trial]:
    """One speaker, in view or off-screen by turns."""
    config, compared = material.config, arms(material)  # a slip in a name first
    rows = [
        make_row(material, "cost", index, [by_turns(index)], snr_db=config.cost_snr_db)
        for index in range(config.cost_mixtures)
    ]
    return cross(compared, rows)


def arms(material: Material) -> list[Arm]:
    """The samplers that `experiment.cost_samplers` names."""
    config, known = material.config, samplers()
    unknown = [name for name in config.cost_samplers if name not in known]
    if unknown:
        raise DavssError(
            f"key 'experiment.cost_samplers': no sampler '{unknown[0]}'; known are "
            + ", ".join(known)
        )
    weight = material.sampler.guidance_weight
    chosen = {name: replace(known[name], guidance_weight=weight) for name in config.cost_samplers}
    return [Arm(name, config.noise, sampler) for name, sampler in chosen.items()]


def samplers() -> dict[str, SamplerConfig]:
    """What can be compared: the presets, and `daps` (as in fast), `pseudo` and `dps` with other
    numbers of steps and draws.
    """
    fast, dps = PRESETS["fast"], replace(PRESETS["paper"], s_churn=10.0)
    pseudo = SamplerConfig(name="pseudo", s_churn=10.0)
    found = dict(PRESETS)
    for steps in (5, 10, 20, 40, 100):
        for draws in (1, 4):
            name = f"{steps} × {draws}" if draws > 1 else f"{steps}"
            for family, base in (("daps", fast), ("pseudo", pseudo), ("dps", dps)):
                found[f"{family} {name}"] = replace(base, num_steps=steps, num_samples=draws)
    return found


def table(rows: pandas.DataFrame, config: ExperimentConfig) -> pandas.DataFrame:
    """Per sampler: evaluations of each network, seconds of a mixture, SI-SDR and what is gained."""
    lines = []
    for who, own in strata(rows):
        for arm, some in own.groupby("arm", sort=False):
            line: dict[str, Any] = {"sampler": arm, "who": who}
            line["evaluations"] = int(some.evaluations.iloc[0])
            lines.append(line | {"seconds": some.seconds_taken.median(), **figures(some)})
    found = pandas.DataFrame(lines)
    order = found.who.drop_duplicates().tolist()
    return found.sort_values(
        ["who", "evaluations"],
        key=lambda column: column.map(order.index) if column.name == "who" else column,
        kind="stable",
        ignore_index=True,
    )


def plot(figure: Figure, table: pandas.DataFrame, column: str = "si_sdr") -> None:
    """SI-SDR, or its gain, against evaluations, a line per family of samplers."""
    axes = figure.add_subplot()
    table = table[table.who == table.who.iloc[0]]
    families = table.sampler.str.replace(r" \d+", "", regex=True)
    for family in dict.fromkeys(families):
        own = table[families == family]
        form, size = ("o-", 4) if len(own) > 1 else ("*", 12)
        values, half = own[column], own[f"{column}_ci"]
        axes.errorbar(own.evaluations, values, half, fmt=form, ms=size, capsize=3, label=family)
    axes.set_xscale("log")
    axes.set_xlabel("evaluations of each network")
    axes.set_ylabel(SI_SDR if column == "si_sdr" else SI_SDR.replace("SDR", "SDRi"))
    axes.set_title(f"{table.who.iloc[0]} speakers")
    axes.grid(alpha=0.3)
    legend(axes)
