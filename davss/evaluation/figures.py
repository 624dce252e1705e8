"""Tables and plots of the experiments as files: markdown, csv, svg."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from davss.config import ExperimentName

HEADS = {
    "speakers": "K",
    "snr_db": "input SNR (dB)",
    "si_sdr": "SI-SDR (dB)",
    "si_sdr_mixture": "mixture (dB)",
    "si_sdri": "SI-SDRi (dB)",
    "diffusion_minus": "diffusion − this (dB)",
    "assigned_right": "assignment right",
    "si_sdr_better": "better assignment (dB)",
    "si_sdr_1": "source 1 (dB)",
    "si_sdr_2": "source 2 (dB)",
    "right_minus": "right − this (dB)",
    "lost_to_noise": "lost to the noise (dB)",
    "lost_to_prior": "lost to the prior (dB)",
    "seconds": "s / mixture",
}


def markdown(table: pandas.DataFrame) -> str:
    """A table of `davss.evaluation.findings` in markdown; intervals stand beside their means."""
    shown = [
        name for name in table if not str(name).endswith(("_ci", "assigned_low", "assigned_high"))
    ]
    lines = ["| " + " | ".join(HEADS.get(str(name), str(name)) for name in shown) + " |"]
    lines.append("|---" * len(shown) + "|")
    for line in table.to_dict("records"):
        lines.append("| " + " | ".join(_cell(str(name), line) for name in shown) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, line: dict[Any, Any]) -> str:
    value = line[name]
    if name == "assigned_right" and not math.isnan(value):
        low, high = line["assigned_low"], line["assigned_high"]
        return f"{value:.1%} ({low:.1%} … {high:.1%})"
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    half = line.get(f"{name}_ci", math.nan)
    if name == "snr_db":
        return f"{value:g}"
    text = f"{value:.2f}" if math.isnan(half) else f"{value:.2f} ± {half:.2f}"
    return text.replace("-", "−")


def draw(name: ExperimentName, table: pandas.DataFrame, path: Path) -> None:
    """The plot of an experiment's table as svg."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    plots: dict[str, Callable[[Any, pandas.DataFrame], None]] = {
        "noise_models": _draw_noise_models,
        "lips": _draw_lips,
        "conditions": _draw_conditions,
        "cost": _draw_cost,
    }
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    plots[name](figure, table)
    with rc_context({"svg.hashsalt": name}):  # the same table makes the same bytes
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_noise_models(figure: Any, table: pandas.DataFrame) -> None:
    counts = sorted(set(table.speakers))
    for axes, count in zip(_row_of_axes(figure, len(counts)), counts, strict=True):
        own = table[(table.speakers == count) & (table.who == "all")]
        for model, line in own.groupby("model", sort=False):
            axes.errorbar(
                line.snr_db, line.si_sdr, line.si_sdr_ci, fmt="o-", capsize=3, ms=4, label=model
            )
        mixture = own.groupby("snr_db").si_sdr_mixture.mean()
        axes.plot(mixture.index, mixture, "k:", label="mixture")
        axes.set_title(f"K = {count}")
        axes.set_xlabel("input SNR (dB)")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("SI-SDR (dB), 95 % intervals")
    # One speaker comes first, and has the peers too.
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=8, frameon=False, loc="outside right upper")


def _draw_lips(figure: Any, table: pandas.DataFrame) -> None:
    left, right = _row_of_axes(figure, 2, sharey=True)
    places = np.arange(len(table))[::-1]
    left.barh(places, table.si_sdr, xerr=table.si_sdr_ci, capsize=3)
    left.plot(table.si_sdr_better, places, "k|", markersize=12, label="better assignment")
    left.legend(fontsize=8, frameon=False)
    left.set_yticks(places, table.lips)
    left.set_xlabel("SI-SDR (dB), 95 % intervals")
    share = 100 * table.assigned_right
    below, above = share - 100 * table.assigned_low, 100 * table.assigned_high - share
    right.errorbar(share, places, xerr=[below.clip(0), above.clip(0)], fmt="o", capsize=3)
    right.axvline(50, color="k", linestyle=":")
    right.set_xlim(0, 102)
    right.set_xlabel("assignment right (%)")


def _draw_conditions(figure: Any, table: pandas.DataFrame) -> None:
    axes = figure.add_subplot()
    noises, priors = list(dict.fromkeys(table.noise)), list(dict.fromkeys(table.prior))
    width = 0.8 / len(priors)
    for number, prior in enumerate(priors):
        own = table[table.prior == prior].set_index("noise").loc[noises]
        places = np.arange(len(noises)) + width * (number - (len(priors) - 1) / 2)
        axes.bar(places, own.si_sdr, 0.9 * width, yerr=own.si_sdr_ci, capsize=4, label=prior)
    axes.set_xticks(range(len(noises)), [f"test noise of {noise}" for noise in noises])
    axes.set_ylabel("SI-SDR (dB), 95 % intervals")
    axes.legend(title="prior", fontsize=8, frameon=False)


def _draw_cost(figure: Any, table: pandas.DataFrame) -> None:
    axes = figure.add_subplot()
    families = table.sampler.str.replace(r" \d+", "", regex=True)
    for family in dict.fromkeys(families):
        own = table[families == family]
        marks = {"fmt": "o-" if len(own) > 1 else "*", "markersize": 4 if len(own) > 1 else 12}
        axes.errorbar(own.evaluations, own.si_sdr, own.si_sdr_ci, capsize=3, label=family, **marks)
    axes.set_xscale("log")
    axes.set_xlabel("evaluations of each network")
    axes.set_ylabel("SI-SDR (dB), 95 % intervals")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)


def _row_of_axes(figure: Any, count: int, sharey: bool = False) -> list[Any]:
    return list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])
