"""Does the noise prior gain on the other noise models with more training?

    python -m benchmarks.scaling scaling.csv --out scaling.svg

`scaling.csv` is what `benchmarks.strangers` wrote of priors NAME-CLIPS and of models of the noise
beside them (docs/results.md has the commands). The priors are exported on their way, by
`pipelines.train_prior dns --export NAME-CLIPS --samples CLIPS`. Prints and draws the SI-SDR of each
prior minus that of each model, on the same mixtures, against the clips that it was trained on.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import pandas

from benchmarks.strangers import plus_minus
from davss.evaluation.plots import legend, new_figure, row_of_axes, save_svg
from davss.evaluation.statistics import Interval, difference

MIXTURE = ["noise_heard", "num_speakers", "snr_db", "item"]
PRIOR = re.compile(r"(?:.*/)?([^/]+)-(\d+)")  # folder: name and clips


def gaps(rows: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each prior and each model of the noise: mean difference and half its interval."""
    wide = rows.pivot(index=MIXTURE, columns="model", values="si_sdr").drop(columns="mixture")
    priors = {model: match for model in wide if (match := PRIOR.fullmatch(model))}
    table = [
        {"prior": match[1], "clips": int(match[2]), "minus": rival}
        | difference(wide[model], wide[rival])._asdict()
        for model, match in priors.items()
        for rival in wide.columns.difference(list(priors))
    ]
    return pandas.DataFrame(table).sort_values(["minus", "prior", "clips"], ignore_index=True)


def draw(table: pandas.DataFrame, path: Path) -> None:
    """A panel for each model of the noise, a line for each prior."""
    rivals = table.groupby("minus")
    figure = new_figure()
    for axes, (rival, of_rival) in zip(
        row_of_axes(figure, len(rivals), sharey=True), rivals, strict=True
    ):
        for name, own in of_rival.groupby("prior"):
            axes.errorbar(own.clips, own["mean"], own.half, fmt="o-", ms=4, capsize=3, label=name)
        axes.axhline(0, color="k", lw=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("clips of 2 s in training")
        axes.set_title(f"minus {rival}", fontsize=9)
    figure.axes[0].set_ylabel("SI-SDR (dB), paired, 95 % intervals")
    legend(figure.axes[-1])
    save_svg(figure, path, path.stem)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table as markdown, write the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("rows", type=Path, metavar="CSV")
    parser.add_argument("--out", type=Path, required=True, metavar="SVG")
    arguments = parser.parse_args(argv)
    table = gaps(pandas.read_csv(arguments.rows))
    draw(table, arguments.out)
    print("| prior | clips | minus | SI-SDR (dB) |", "|---" * 4 + "|", sep="\n")
    for prior, clips, rival, *found in table.itertuples(index=False):
        print(f"| {prior} | {clips} | {rival} | {plus_minus(Interval(*found))} |")


if __name__ == "__main__":
    main()
