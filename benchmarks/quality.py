"""What samplers reach with how many network evaluations, on the mixtures of the demo.

    make repro && python -m benchmarks.quality [--settings fast paper …] [--per-speakers 4]

Every setting separates the same mixtures with the trained demo priors; a mixture's row goes to
docs/quality.csv as soon as its batch is done, and what is there is not done again. The table goes
to stdout, the plot to docs/quality.svg. `--list` names the settings. On one core a call of both
networks with gradients takes about 3.2 s for the twelve mixtures, without gradients 1.5 s.

Shapes: B mixtures · K speakers · T samples.
"""

import argparse
import csv
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from tqdm import tqdm

import davss
from davss.config import PRESETS, SamplerConfig, changed, digest
from davss.errors import DavssError, ending_in_one_line
from davss.evaluation.mixtures import Mixture, render, rows_of
from davss.evaluation.runner import residual_db
from davss.shards.reader import ShardReader
from davss.storage import shard_store
from pipelines.separate import contents

COLUMNS = (
    "setting",
    "condition",
    "key",
    "num_speakers",
    "evaluations",
    "seconds",
    "si_sdr",
    "si_sdri",
    "residual_db",
    "priors",
)
DPS = SamplerConfig(guidance_weight=0.0, s_churn=10.0)
MEAN = changed(DPS, name="daps", s_churn=0.0, inner_noise=0.0)
MEASURED = changed(MEAN, variance="measured")
LOWEST = -6.0  # dB, where the plot ends


def settings() -> dict[str, SamplerConfig]:
    """Everything that is compared, by family/variant; names without a family are presets."""
    found = dict(PRESETS)
    found["paper, w 0"] = changed(PRESETS["paper"], guidance_weight=0.0)
    for steps in (10, 20, 40, 100, 400):
        found[f"dps Euler/{steps}"] = changed(DPS, num_steps=steps)
    for steps in (10, 20, 40):
        found[f"dps 2M/{steps}"] = changed(DPS, num_steps=steps, order=2, multistep=True)
        found[f"daps/{steps}"] = changed(MEAN, num_steps=steps, inner_noise=1.0)
        found[f"daps to the mean/{steps}"] = changed(MEAN, num_steps=steps)
        found[f"daps measured/{steps}"] = changed(MEASURED, num_steps=steps, inner_noise=1.0)
        found[f"daps measured, to the mean/{steps}"] = changed(MEASURED, num_steps=steps)
        found[f"pseudo/{steps}"] = changed(DPS, name="pseudo", num_steps=steps)
        found[f"dirac/{steps}"] = changed(DPS, name="dirac", num_steps=steps)
    for steps in (5, 10, 20):
        found[f"dps Heun/{steps}"] = changed(DPS, num_steps=steps, order=2)
    for steps, draws in ((10, 2), (5, 8), (10, 4), (20, 4)):
        name = f"{steps} × {draws}"
        found[f"dps Euler/{name}"] = changed(DPS, num_steps=steps, num_samples=draws)
        found[f"daps to the mean/{name}"] = changed(MEAN, num_steps=steps, num_samples=draws)
        name_measured = f"daps measured, to the mean/{name}"
        found[name_measured] = changed(MEASURED, num_steps=steps, num_samples=draws)
        found[f"pseudo/{name}"] = changed(DPS, name="pseudo", num_steps=steps, num_samples=draws)
        found[f"dirac/{name}"] = changed(DPS, name="dirac", num_steps=steps, num_samples=draws)
    fast = PRESETS["fast"]
    found["fast/w 0.5"] = changed(fast, guidance_weight=0.5)
    found["fast/eta 0.7"] = changed(fast, eta=0.7)
    base = changed(DPS, num_steps=20)
    variants: dict[str, dict[str, Any]] = {
        "s_churn 0": {"s_churn": 0.0},
        "s_churn 5": {"s_churn": 5.0},
        "zeta 0.25": {"zeta": 0.25},
        "zeta 1": {"zeta": 1.0},
        "zeta_late 0.1": {"zeta_late": 0.1},
        "rho 5": {"rho": 5.0},
        "sigma_max 0.2": {"sigma_max": 0.2},
        "sigma_max 1": {"sigma_max": 1.0},
        "warm_start": {"warm_start": True, "sigma_max": 0.2},
        "sigma_min 1e-3": {"sigma_min": 1e-3},
        "w 0.5": {"guidance_weight": 0.5},
    }
    for name, change in variants.items():
        found[f"dps, 20 steps/{name}"] = changed(base, **change)
    return found


def main() -> None:
    """Run what is missing, print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--settings", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--condition", default="wham", help="noise of the mixtures")
    parser.add_argument("--prior", default="wham", help="noise prior")
    parser.add_argument("--per-speakers", type=int, default=4, help="mixtures of each K")
    parser.add_argument("--out", type=Path, default=Path("docs/quality.csv"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--list", action="store_true", help="name the settings and stop")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    known = settings()
    if arguments.list:
        print("\n".join(known))
        return
    unknown = set(arguments.settings or ()) - set(known)
    if unknown:
        parser.error(f"unknown setting {sorted(unknown)[0]!r}; --list names them")
    torch.set_num_threads(arguments.threads)
    if not arguments.table:
        chosen = {name: known[name] for name in arguments.settings or known}
        run_missing(chosen, arguments)
    rows = pandas.read_csv(arguments.out)
    print(table(rows))
    draw_plot(rows, arguments.out.with_suffix(".svg"))


def run_missing(chosen: dict[str, SamplerConfig], arguments: argparse.Namespace) -> None:
    """Append the rows of all settings and mixtures that the csv does not have."""
    batches = list(read_mixtures(arguments.condition, arguments.per_speakers))
    folders = [Path("data/priors") / name for name in ("speech", arguments.prior)]
    priors = [davss.load_prior(folder) for folder in folders]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    known = digest(*(contents(folder) for folder in folders))
    done = set()
    if arguments.out.is_file():
        stored = pandas.read_csv(arguments.out)
        if set(stored.priors) != {known}:
            raise DavssError(f"{arguments.out}: of other priors; remove it or give another --out")
        done = set(zip(stored.setting, stored.condition, stored.key, strict=True))
    for name, sampler in tqdm(chosen.items(), unit="setting"):
        separator = davss.Separator(*priors, sampler=sampler)  # type: ignore[arg-type]
        for batch in batches:
            missing = [m for m in batch if (name, arguments.condition, m.key) not in done]
            if missing:
                rows = measure(name, arguments.condition, separator, missing)
                append(arguments.out, [row | {"priors": known} for row in rows])


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to the csv; its head first if it is new. Two processes may share it."""
    new = not path.is_file()
    with open(path, "a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def read_mixtures(condition: str, count: int) -> Iterator[list[Mixture]]:
    """The first `count` demo mixtures of every K, together."""
    speech, noise = (
        ShardReader(Path("data/shards") / name, shard_store(), "test")
        for name in ("voxceleb2", condition)
    )
    rows = list(rows_of(pandas.read_parquet(Path("data/mixtures") / f"{condition}.parquet")))
    for number in sorted({row["num_speakers"] for row in rows}):
        some = [row for row in rows if row["num_speakers"] == number][:count]
        yield [render(row, speech, noise) for row in some]


def measure(
    name: str, condition: str, separator: davss.Separator, batch: Sequence[Mixture]
) -> list[dict[str, Any]]:
    """Rows of mixtures that are separated together."""
    mixture = torch.from_numpy(np.stack([m.mixture for m in batch]))
    speech = torch.from_numpy(np.stack([m.speech for m in batch]))
    lips = torch.from_numpy(np.stack([m.lips for m in batch if m.lips is not None])).float()
    begin = time.perf_counter()
    result = separator(mixture, lips, sample_rate=batch[0].sample_rate, keys=[m.key for m in batch])
    seconds = (time.perf_counter() - begin) / len(batch)
    before = davss.si_sdr(mixture[:, None].expand_as(speech), speech).mean(dim=1)
    after = davss.si_sdr(result.speech, speech).mean(dim=1)
    sources = torch.cat([result.speech, result.noise[:, None]], dim=1)
    return [
        {
            "setting": name,
            "condition": condition,
            "key": m.key,
            "num_speakers": speech.shape[1],
            "evaluations": result.num_evaluations,
            "seconds": round(seconds, 2),
            "si_sdr": round(after[b].item(), 3),
            "si_sdri": round((after - before)[b].item(), 3),
            "residual_db": round(residual_db(m.mixture, sources[b].numpy()), 1),
        }
        for b, m in enumerate(batch)
    ]


def table(rows: pandas.DataFrame) -> str:
    """A markdown table: mean SI-SDRi per K and over all, in the order of evaluations."""
    lines = [
        "| setting | evaluations | mixtures | K = 1 | K = 2 | K = 3 | mean SI-SDRi | residual |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    groups = rows.groupby("setting", sort=False)
    for name, own in sorted(groups, key=lambda item: (item[1].evaluations.iloc[0], item[0])):
        per_k = own.groupby("num_speakers").si_sdri.mean()
        figures = " | ".join(decibels(per_k.get(k, np.nan)) for k in (1, 2, 3))
        lines.append(
            f"| {name} | {own.evaluations.iloc[0]} | {len(own)} | {figures} "
            f"| {decibels(own.si_sdri.mean())} | {own.residual_db.mean():.0f} dB |"
        )
    return "\n".join(lines).replace("-", "−").replace("−−−", "---")


def decibels(value: float) -> str:
    """A cell; an item that diverged is silent, its SI-SDR −∞."""
    return "diverged" if np.isneginf(value) else f"{value:+.2f}"


def draw_plot(rows: pandas.DataFrame, path: Path) -> None:
    """SI-SDRi against evaluations: a line per family, squares for means of draws, presets as
    stars. Settings that have not been run on all mixtures, or diverged, are left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    whole = rows.groupby("setting").si_sdri.transform("size") == rows.key.nunique()
    finite = np.isfinite(rows.si_sdri).groupby(rows.setting).transform("all")
    means = rows[whole & finite].groupby("setting", sort=False)[["evaluations", "si_sdri"]].mean()
    means = means.reset_index()
    means[["family", "_", "variant"]] = means.setting.str.partition("/")
    presets = means.variant.eq("")
    for family, own in means[~presets].groupby("family", sort=False):
        steps = own[own.variant.str.isdigit()].sort_values("evaluations")
        draws = own[own.variant.str.contains("×")]
        if steps.empty and draws.empty:  # other settings of a sampler of some steps
            axes.plot(own.evaluations, own.si_sdri, "_", markersize=11, label=f"{family}: others")
            continue
        (line,) = axes.plot(steps.evaluations, steps.si_sdri, "o-", markersize=4, label=family)
        axes.plot(draws.evaluations, draws.si_sdri, "s", markersize=5, color=line.get_color())
    for row in means[presets].itertuples():
        axes.plot(row.evaluations, row.si_sdri, "*", markersize=13, label=row.setting)
    axes.set_xscale("log")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], LOWEST))
    axes.set_xlabel("evaluations of each network (squares: several draws)")
    axes.set_ylabel("mean SI-SDRi (dB)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    with ending_in_one_line():
        main()
