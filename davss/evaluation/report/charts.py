"""Charts of the results page: matplotlib draws them, the page's style sheet colours them.

Each chart is a small SVG with the style sheet's variables for colours and the page's own font, so
that it follows light and dark mode; a row of charts wraps on a phone instead of shrinking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from davss.evaluation.plots import damage_kinds, damage_panel, new_figure, svg

# Colours that stand for variables of the style sheet.
INK, MUTED, LINE = "#010203", "#040506", "#070809"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line"} | {
    colour: f"--series-{index + 1}" for index, colour in enumerate(SERIES)
}
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.6,
}
MAX_POINTS = 1200  # of a scatter plot: more would only make the page heavy


class Chart:
    """One chart under construction; `svg` is the markup when its block has ended."""

    svg: str
    figure: Figure
    axes: Axes


@contextmanager
def chart(title: str, description: str, size: tuple[float, float] = (5.2, 3.2)) -> Iterator[Chart]:
    """Axes to draw on, titled `title`; `description` is what a screen reader says."""
    drawn = Chart()
    style: Any = STYLE
    with matplotlib.rc_context(style):
        figure = drawn.figure = new_figure(*size)
        drawn.axes = figure.add_subplot()
        drawn.axes.set_title(title)
        yield drawn
        text = svg(figure, description, transparent=True)
    drawn.svg = _themed(text, description)


def _themed(text: str, description: str) -> str:
    """Matplotlib's SVG for inlining: no prolog and metadata, no clashing ids, themed colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[\w.]+_\d+"(/?)>', r"<g\1>", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    label = f'<svg role="img" aria-label="{escape(description)}" '
    return re.sub(r"\s*\n\s*", "\n", text.replace("<svg ", label, 1))


def gains_by_speakers(
    scores: pandas.DataFrame, title: str, limits: tuple[float, float], seed: int = 0
) -> str:
    """SI-SDRi of every speech source, by number of speakers, with means; `scores` of one group."""
    counts = sorted(scores.num_speakers.unique())
    text = f"SI-SDR improvement per source, {title}: " + ", ".join(
        f"{_talkers(k)} mean {_mean(scores[scores.num_speakers == k].si_sdri):.1f} dB"
        for k in counts
    )
    rng = np.random.default_rng(seed)
    with chart(title, text) as drawn:
        axes = drawn.axes
        for place, count in enumerate(counts):
            gains = _some(_finite(scores[scores.num_speakers == count].si_sdri))
            colour, marker = _look(int(count))
            x = place + rng.uniform(-0.2, 0.2, len(gains))
            axes.scatter(x, gains, s=16, color=colour, marker=marker, alpha=0.55, linewidths=0)
            if len(gains):
                low, middle, high = np.percentile(gains, [25, 50, 75])
                axes.vlines(place + 0.32, low, high, color=colour, linewidth=5, alpha=0.35)
                axes.hlines(middle, place + 0.25, place + 0.39, color=INK, linewidth=2)
        axes.axhline(0, color=MUTED, linewidth=1.2)
        axes.set(xticks=range(len(counts)), xticklabels=[_talkers(k) for k in counts])
        axes.set(xlim=(-0.5, len(counts) - 0.4), ylim=limits, ylabel="SI-SDRi (dB)")
        axes.grid(axis="x", visible=False)
    return drawn.svg


def gains_by_input(scores: pandas.DataFrame, title: str, limits: tuple[float, float]) -> str:
    """SI-SDRi against the SI-SDR of the mixture for every speech source of one group."""
    text = f"SI-SDR improvement against the mixture's SI-SDR, {title}"
    with chart(title, text) as drawn:
        axes = drawn.axes
        for count in sorted(scores.num_speakers.unique()):
            rows = scores[scores.num_speakers == count]
            rows = rows[np.isfinite(rows.si_sdri)]
            step = max(1, len(rows) // MAX_POINTS)
            colour, marker = _look(int(count))
            axes.scatter(
                rows.si_sdr_mixture[::step],
                rows.si_sdri[::step],
                s=18,
                color=colour,
                marker=marker,
                alpha=0.7,
                linewidths=0,
                label=_talkers(count),
            )
        axes.axhline(0, color=MUTED, linewidth=1.2)
        axes.set(xlabel="SI-SDR of the mixture (dB)", ylabel="SI-SDRi (dB)", ylim=limits)
        axes.legend(fontsize=10, handletextpad=0.1)
    return drawn.svg


def gains_by_noise_model(
    groups: pandas.DataFrame, names: Mapping[str, str], title: str, limits: tuple[float, float]
) -> str:
    """Mean SI-SDRi and its interval for every noise model, by number of speakers; `groups` of one
    condition, `names` as the noise models are called.
    """
    counts = sorted(set(groups.num_speakers))
    means = [
        f"{_talkers(group.num_speakers)}, {names[group.noise_model]} {group.si_sdri:.1f} dB"
        for group in groups.itertuples()
    ]
    text = f"Mean SI-SDR improvement by noise model, {title}: {'; '.join(means)}"
    with chart(title, text, (5.2, 3.6)) as drawn:
        axes = drawn.axes
        for index, (model, name) in enumerate(names.items()):
            own = groups[groups.noise_model == model]
            shift = 0.16 * (index - (len(names) - 1) / 2)
            axes.errorbar(
                own.num_speakers.map(counts.index) + shift,
                own.si_sdri,
                own.si_sdri_ci,
                fmt=MARKERS[index % len(MARKERS)],
                color=SERIES[index % len(SERIES)],
                markersize=5.5,
                capsize=3,
                label=name,
            )
        axes.axhline(0, color=MUTED, linewidth=1.2)
        axes.set(xticks=range(len(counts)), xticklabels=[_talkers(k) for k in counts])
        axes.set(xlim=(-0.5, len(counts) - 0.5), ylim=limits, ylabel="SI-SDRi (dB)")
        axes.grid(axis="x", visible=False)
        drawn.figure.legend(loc="outside lower center", ncols=2, fontsize=10, handletextpad=0.3)
    return drawn.svg


def trace(values: Mapping[str, np.ndarray], sources: list[str], title: str) -> list[str]:
    """How the sampler went: noise level and misfit, and the size of the two steps, by source."""
    names = [name.replace("_", " ").capitalize() for name in sources]
    steps = np.arange(1, len(values["sigma"]) + 1)
    size = (4.6, 2.7)
    with chart("Noise level σ", f"Noise level σ at every step, {title}", size) as sigma:
        sigma.axes.plot(steps, values["sigma"], color=INK)
        sigma.axes.set(yscale="log", xlabel="step")
    with chart("Misfit ℓ", f"Reconstruction likelihood ℓ at every step, {title}", size) as misfit:
        misfit.axes.plot(steps, values["likelihood"], color=INK)
        misfit.axes.set(yscale="log", xlabel="step")
    text = f"RMS of prior step and likelihood step at every sampler step by source, {title}"
    with chart("RMS of a step: prior solid, likelihood dashed", text, size) as moves:
        for index, name in enumerate(names):
            colour = _colour_of(sources[index], index)
            moves.axes.plot(steps, values["prior_step"][:, index], color=colour, label=name)
            moves.axes.plot(
                steps, values["likelihood_step"][:, index], color=colour, ls=(0, (2, 1.2))
            )
        moves.axes.set(yscale="log", xlabel="step")
        moves.axes.legend(fontsize=9, ncols=2, handlelength=1.2, columnspacing=1)
    return [sigma.svg, misfit.svg, moves.svg]


def training(history: pandas.DataFrame, name: str) -> list[str]:
    """Losses of one prior over the clips seen, and its gain over a Wiener filter by noise level."""
    seen = history["samples_seen"] / 1000
    losses = [c for c in ("train_loss", "valid_loss") if c in history]
    last = ", ".join(f"{_spoken(c)} ends at {history[c].iloc[-1]:.3f}" for c in losses)
    with chart(
        f"{name} prior: loss", f"Losses of the {name} prior during training: {last}"
    ) as total:
        for index, column in enumerate(losses):
            label = _spoken(column)
            total.axes.plot(seen, history[column], color=SERIES[index], label=label, marker=".")
        total.axes.set(xlabel="clips seen (thousands)", ylabel="loss")
        total.axes.legend(fontsize=10)
    return [total.svg, *_gains_by_level(history, f"{name} prior: gain by σ")]


def _gains_by_level(history: pandas.DataFrame, title: str) -> list[str]:
    """A line for every noise level; nothing without any."""
    prefix = "valid_gain_sigma_"
    columns = [column for column in history if column.startswith(prefix)]
    if not columns:
        return []
    with chart(title, f"{title}, on validation clips during training") as levels:
        for index, column in enumerate(columns):
            colour, dash = SERIES[index % len(SERIES)], "-" if index < len(SERIES) else ":"
            label = f"σ = {column.removeprefix(prefix)}"
            x, marker = history["samples_seen"] / 1000, "."
            levels.axes.plot(x, history[column], marker, ls=dash, color=colour, label=label)
        levels.axes.set(xlabel="clips seen (thousands)", ylabel="gain (dB)")
        levels.axes.legend(fontsize=9, ncols=2, handlelength=1.2)
    return [levels.svg]


def robustness(table: pandas.DataFrame, title: str) -> list[str]:
    """A chart for every kind of damage of a robustness plan's table."""
    drawn = []
    for kind in damage_kinds(table):
        text = f"SI-SDR by {kind}, {title}, {table.who.iloc[0]} speakers"
        with chart(f"{title}: {kind}", text) as one:
            damage_panel(one.axes, table, kind, color=SERIES[0])
            one.axes.set(ylabel="SI-SDR (dB)")
            one.axes.legend()
        drawn.append(one.svg)
    return drawn


def shared_limits(values: pandas.Series) -> tuple[float, float]:
    """Limits of an axis that hold all finite `values` and 0, with a margin."""
    finite = np.append(_finite(values), [-1.0, 1.0])
    margin = 0.08 * (finite.max() - finite.min())
    return float(finite.min() - margin), float(finite.max() + margin)


def _finite(values: pandas.Series) -> np.ndarray:
    array = values.to_numpy(float)
    return array[np.isfinite(array)]


def _some(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, len(values) // MAX_POINTS)]


def _mean(values: pandas.Series) -> float:
    finite = _finite(values)
    return float(finite.mean()) if len(finite) else float("nan")


def _talkers(count: int) -> str:
    return f"{count} speaker" if count == 1 else f"{count} speakers"


def _look(count: int) -> tuple[str, str]:
    return SERIES[(count - 1) % len(SERIES)], MARKERS[(count - 1) % len(MARKERS)]


def _colour_of(source: str, index: int) -> str:
    return MUTED if source == "noise" else SERIES[index % len(SERIES)]


def _spoken(column: str) -> str:
    return {"train_loss": "training", "valid_loss": "validation"}[column]
