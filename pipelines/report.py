"""Stage: all scores into report/index.html, report/metrics.json and report/plots/*.csv.

    python -m pipelines.report [--params params.yaml]

The page is one file that works offline; the csv files are for `dvc plots`.
"""

from __future__ import annotations

import argparse
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas

from davss.config import ReportConfig, SamplerConfig, load_section, to_dict
from davss.evaluation.estimates import read_estimate, read_manifest, read_trace
from davss.evaluation.mixtures import render, rows_of
from davss.evaluation.report.examples import Example, choose
from davss.evaluation.report.faces import read_faces
from davss.evaluation.report.page import Header, Results, build_page, claims, noise_model
from davss.evaluation.report.summary import (
    UNTRAINED,
    Difference,
    Group,
    as_metrics,
    paired_differences,
    summarise,
)
from davss.shards.reader import ShardReader
from davss.storage import publish, shard_store, storage_root
from davss.training.tracking import git_revision
from pipelines import run

SPEECH, SPEECH_CORPUS = "speech", "voxceleb2"
OUT = Path("report")
PLOTTED = [
    "noise_model",
    "condition",
    "num_speakers",
    "key",
    "source",
    "si_sdr_mixture",
    "si_sdr",
    "si_sdri",
]


def main(argv: list[str] | None = None) -> None:
    """Write the report of all noise models and conditions."""
    parser = argparse.ArgumentParser(
        prog="pipelines.report", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--params", default="params.yaml", help="settings (default: params.yaml)")
    params = parser.parse_args(argv).params
    models = load_section(params, "noise_models", list[str])
    priors = load_section(params, "noise_priors", list[str])
    conditions = load_section(params, "conditions", list[str])
    count = load_section(params, "report", ReportConfig).examples_per_condition
    sets = [(model, condition) for model in models for condition in conditions]
    score_files = [scores_file(*one) for one in sets]
    tables = [
        read_manifest(path, f"dvc repro score@{model}-{condition}")
        for path, (model, condition) in zip(score_files, sets, strict=True)
    ]
    estimates = [read_estimates(*one) for one in sets]
    examples = [
        example
        for one, table, made in zip(sets, tables, estimates, strict=True)
        if one[0] not in UNTRAINED  # sound and pictures of all would make the page heavy
        for example in read_examples(*one, table, made, count)
    ]
    scores = pandas.concat(tables, ignore_index=True)
    groups = summarise(scores, pandas.concat(estimates, ignore_index=True))
    header = make_header(params, score_files)
    differences, training = paired_differences(scores), read_training([SPEECH, *priors])
    outcomes = read_outcomes([SPEECH, *priors])
    faces = read_faces(Path("data/shards") / SPEECH_CORPUS)
    write(Results(header, scores, groups, examples, differences, training, outcomes, faces))
    say(groups, differences)


def say(groups: list[Group], differences: list[Difference]) -> None:
    """The results in lines, and where the page is."""
    for group in groups:
        gain, margin = group.mean["si_sdri"], group.interval["si_sdri"]
        print(
            f"{noise_model(group.noise_model)}, {group.condition} noise, K = {group.num_speakers}: "
            f"SI-SDRi {gain:+.2f} ± {margin:.2f} dB over {group.mixtures} mixtures"
            + (f", {group.failed} failed" if group.failed else "")
        )
    for claim in claims(differences):
        print(claim)
    print(f"report: {(OUT / 'index.html').resolve().as_uri()}")


def scores_file(model: str, condition: str) -> Path:
    """Scores of one set, as the score stage writes them."""
    return Path("data/scores") / f"{model}-{condition}.parquet"


def read_estimates(model: str, condition: str) -> pandas.DataFrame:
    """The estimates manifest of one set, with its noise model as a column."""
    path = Path("data/estimates") / f"{model}-{condition}.parquet"
    return read_manifest(path, f"dvc repro separate@{model}-{condition}").assign(noise_model=model)


def read_examples(
    prior: str, condition: str, scores: pandas.DataFrame, estimates: pandas.DataFrame, count: int
) -> list[Example]:
    """Up to `count` examples of one set, with their signals."""
    chosen = choose(scores, count)
    if not chosen:
        return []
    path = Path("data/mixtures") / f"{condition}.parquet"
    manifest = read_manifest(path, f"dvc repro mixtures@{condition}")
    rows: dict[str, dict[str, Any]] = {row["key"]: row for row in rows_of(manifest)}
    storage, made = storage_root(), estimates.set_index("key")
    speech, noise = (
        ShardReader(Path("data/shards") / corpus, shard_store(), "test")
        for corpus in (SPEECH_CORPUS, condition)
    )
    examples = []
    for key, why in chosen:
        wav = storage / made.path[key]
        facts = {"SIR": rows[key]["sir_db"], "SNR": rows[key]["snr_db"]}
        facts["Residual"] = float(made.residual_db[key])
        own = scores[scores.key == key].set_index("source")
        examples.append(
            Example(
                noise_model=prior,
                condition=condition,
                why=why,
                mixture=render(rows[key], speech, noise),
                estimates=read_estimate(wav)[0],
                scores=own.to_dict("index"),
                facts={name: value for name, value in facts.items() if not math.isnan(value)},
                trace=read_trace(wav),
            )
        )
    return examples


def read_training(names: list[str]) -> dict[str, pandas.DataFrame]:
    """Training histories by prior; priors trained elsewhere have none."""
    files = {name: Path("data/training") / name / "history.csv" for name in names}
    return {name: pandas.read_csv(path) for name, path in files.items() if path.is_file()}


def read_outcomes(names: list[str]) -> dict[str, dict[str, float]]:
    """The last figures of training by prior; priors trained elsewhere have none."""
    files = {name: Path("data/training") / name / "metrics.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.is_file()}


def make_header(params: str, score_files: list[Path]) -> Header:
    """Where the results come from; their date is that of the newest scores."""
    newest = max(path.stat().st_mtime for path in score_files)
    return Header(
        revision=git_revision(Path.cwd()),
        date=f"{datetime.fromtimestamp(newest, UTC):%d %B %Y, %H:%M UTC}".lstrip("0"),
        profile=load_section(params, "profile", str),
        sampler=to_dict(load_section(params, "sampler", SamplerConfig)),
        seed=load_section(params, "seed", int),
    )


def write(results: Results) -> None:
    """Page, metrics and plots, each of them whole or not at all."""
    with publish(OUT / "index.html") as temporary:
        temporary.write_text(build_page(results))
    with publish(OUT / "metrics.json") as temporary:
        metrics = as_metrics(results.groups, results.differences)
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
    with publish(OUT / "plots") as folder:
        folder.mkdir()
        scores = results.scores
        # The plot cannot tell noise models apart: it is about the trained priors, as the page is.
        trained = (scores.source != "noise") & ~scores.noise_model.isin(list(UNTRAINED))
        scores.loc[trained, PLOTTED].to_csv(folder / "sources.csv", index=False)
        means = [
            {
                "noise_model": group.noise_model,
                "condition": group.condition,
                "num_speakers": group.num_speakers,
                **{name: group.mean[name] for name in ("si_sdri", "si_sdr", "pesq", "estoi")},
                "si_sdri_interval": group.interval["si_sdri"],
                "si_sdr_interval": group.interval["si_sdr"],
            }
            for group in results.groups
        ]
        pandas.DataFrame(means).to_csv(folder / "means.csv", index=False)


if __name__ == "__main__":
    run(main)
