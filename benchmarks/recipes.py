"""What training buys: denoising gain at each noise level against minutes, of several runs.

    python -m benchmarks.recipes speech=data/training/speech wham=data/training/wham …

Reads what the training stages have left, history.csv and metrics.json in each folder, and writes
docs/results/recipes.{md,csv,svg}. A gain is in dB over the Wiener filter of white noise, on
validation clips (docs/training.md); minutes are those of the whole run, shared out by samples.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas

from davss.errors import DavssError
from davss.evaluation.plots import new_figure, save_svg
from davss.evaluation.tables import markdown
from davss.storage import publish
from pipelines import run

GAIN = "valid_gain_sigma_"
SHOWN = 4  # validations of a run in the markdown table; the csv has all


def main(argv: list[str] | None = None) -> None:
    """Table and plot of the runs named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=DIR", help="folders of data/training")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="where it goes")
    arguments = parser.parse_args(argv)
    histories = [read(text) for text in arguments.runs]
    found = pandas.concat(histories, ignore_index=True)
    text = markdown(pandas.concat([some(history) for history in histories], ignore_index=True))
    with publish(arguments.out / "recipes.csv") as temporary:
        temporary.write_text(found.round(4).to_csv(index=False))
    with publish(arguments.out / "recipes.md") as temporary:
        temporary.write_text(text)
    with publish(arguments.out / "recipes.svg") as temporary:
        plot(found, temporary)
    print(text)


def read(text: str) -> pandas.DataFrame:
    """Lines of a run NAME=DIR: run, samples, minutes, gain, and one column for each σ."""
    name, equals, folder = text.partition("=")
    if not equals:
        raise DavssError(f"{text}: give NAME=DIR, such as speech=data/training/speech")
    for file in ("history.csv", "metrics.json"):
        if not (Path(folder) / file).is_file():
            raise DavssError(f"{Path(folder) / file}: no such file; has this training ended?")
    history = pandas.read_csv(Path(folder) / "history.csv").dropna(subset=["valid_gain"])
    metrics = json.loads((Path(folder) / "metrics.json").read_text())
    minutes = history.samples_seen * metrics["seconds"] / metrics["samples_seen"] / 60
    columns = {"run": name, "samples": history.samples_seen, "minutes": minutes.round(1)}
    columns["gain (dB)"] = history.valid_gain
    for column in history.columns[history.columns.str.startswith(GAIN)]:
        columns[f"σ {column.removeprefix(GAIN)}"] = history[column]
    return pandas.DataFrame(columns)


def some(history: pandas.DataFrame) -> pandas.DataFrame:
    """The validations nearest to halves of the run: an eighth, a quarter, a half, the end."""
    ends = [history.samples.iloc[-1] / 2**power for power in range(SHOWN)]
    return history.loc[sorted({(history.samples - end).abs().idxmin() for end in ends})]


def plot(found: pandas.DataFrame, path: Path) -> None:
    """Gain against minutes as svg, a panel for the mean and one for each σ."""
    columns = ["gain (dB)", *(c for c in found if str(c).startswith("σ"))]
    figure = new_figure(8.4, 5.2)
    panels: Any = figure.subplots(2, (len(columns) + 1) // 2, squeeze=False, sharex=True)
    for axes, column in zip(panels.flat, columns, strict=False):
        for name, line in found.groupby("run", sort=False):
            axes.plot(line.minutes, line[column], ".-", markersize=4, label=name)
        axes.set_title("mean" if column == columns[0] else column, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(columns) :]:
        axes.set_axis_off()
    figure.supxlabel("minutes of training, one core", fontsize=9)
    figure.supylabel("gain over a white Wiener filter (dB)", fontsize=9)
    handles = panels.flat[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=8, frameon=False, loc="outside upper center", ncols=5)
    save_svg(figure, path, "recipes")


if __name__ == "__main__":
    run(main, reads_params=False)
