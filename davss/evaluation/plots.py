"""Plots of tables: what all of them share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SI_SDR = "SI-SDR (dB), 95 % intervals"
UNDAMAGED = "none"


def new_figure(width: float = 7.2, height: float = 4.0) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def row_of_axes(figure: Figure, count: int, sharey: bool = False) -> list[Axes]:
    """Axes beside each other."""
    return list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])


def legend(axes: Axes, **options: Any) -> None:
    """A small legend without a frame."""
    axes.legend(fontsize=8, frameon=False, **options)


VALUES = {  # of the kinds of damage, what their values are
    "level": "louder by (dB)",
    "clip": "share of samples clipped",
    "opus": "bit rate (kb/s)",
    "reverb": "RT60 (s)",
    "shift": "lips late by (frames)",
    "dropped": "share of frames lost",
    "frozen": "share of frames frozen",
    "covered": "share of frames covered",
    "pixels": "width of the crop (pixels)",
    "blur": "σ of the blur (pixels of 96)",
    "video": "CRF of H.264",
}

BOTH_WAYS = ("level", "shift")  # kinds that are no damage between their values


def damage_kinds(table: pandas.DataFrame) -> list[str]:
    """The kinds of damage in a table of robustness, in its order."""
    kinds = table.damage.str.partition(":")[0]
    return [kind for kind in dict.fromkeys(kinds) if kind != UNDAMAGED]


def damage_panel(axes: Axes, table: pandas.DataFrame, kind: str, **look: Any) -> None:
    """SI-SDR of estimate and mixture against the values of a kind of damage, for the first group of
    speakers; `look` is the estimate's.
    """
    table = table[table.who == table.who.iloc[0]]
    kinds = table.damage.str.partition(":")[0]
    own = pandas.concat([table[table.damage == UNDAMAGED], table[kinds == kind]])
    own = own.assign(value=own.damage.str.partition(":")[2])
    if kind in BOTH_WAYS:
        own = own.sort_values("value", key=lambda text: text.replace("", "0").astype(float))
    places = range(len(own))
    axes.errorbar(
        places, own.si_sdr, own.si_sdr_ci, fmt="o-", ms=4, capsize=3, label="estimate", **look
    )
    axes.plot(places, own.si_sdr_mixture, "k:", label="mixture")
    axes.set_xticks(places, own.value.replace("", UNDAMAGED), rotation=45)
    axes.set_xlabel(VALUES.get(kind, ""), fontsize=8)


def svg(figure: Figure, name: str, **options: Any) -> str:
    """The figure as SVG; the same drawing of the same `name` is the same text."""
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, **options)
    return stream.getvalue()


def save_svg(figure: Figure, path: Path, name: str) -> None:
    """Write the figure to `path` as SVG."""
    path.write_text(svg(figure, name), encoding="utf-8")
