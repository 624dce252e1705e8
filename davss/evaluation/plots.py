"""Plots of tables: what all of them share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SI_SDR = "SI-SDR (dB), 95 % intervals"


def new_figure(width: float = 7.2, height: float = 4.0) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def row_of_axes(figure: Figure, count: int, sharey: bool = False) -> list[Axes]:
    """Axes beside each other."""
    return list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])


def legend(axes: Axes, **options: Any) -> None:
    """A small legend without a frame."""
    axes.legend(fontsize=8, frameon=False, **options)


def svg(figure: Figure, name: str, **options: Any) -> str:
    """The figure as SVG; the same drawing of the same `name` is the same text."""
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, **options)
    return stream.getvalue()


def save_svg(figure: Figure, path: Path, name: str) -> None:
    """Write the figure to `path` as SVG."""
    path.write_text(svg(figure, name))
