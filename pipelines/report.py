"""Stage: all scores into report/index.html, report/scores.json, metrics.json and plots/*.csv.

    python -m pipelines.report [--params params.yaml]

The page is one file that works offline; scores.json has every mean of every group, metrics.json the
few figures that `dvc metrics diff` and `dvc exp show` compare; the csv files are for `dvc plots`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas

from davss.config import (
    SPEECH_CORPUS,
    ExperimentConfig,
    ReportConfig,
    SamplerConfig,
    load_section,
    to_dict,
)
from davss.errors import DavssError
from davss.evaluation.plans import robust_sound
from davss.evaluation.records import read_estimate, read_manifest, read_trace
from davss.evaluation.report.examples import Example, choose
from davss.evaluation.report.faces import read_faces
from davss.evaluation.report.page import Header, Results, build_page, claims, noise_model
from davss.evaluation.report.summary import (
    UNTRAINED,
    as_metrics,
    as_scores,
    paired_differences,
    summarise,
)
from davss.evaluation.scoring import COLUMNS
from davss.storage import open_storage, publish
from davss.training.tracking import git_revision
from pipelines import run, stage_parser
from pipelines.clips import open_library, read_mixtures

SPEECH = "speech"
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
    parser = stage_parser("report", __doc__)
    params = parser.parse_args(argv).params
    models = load_section(params, "noise_models", list[str])
    priors = load_section(params, "noise_priors", list[str])
    conditions = load_section(params, "conditions", list[str])
    count = load_section(params, "report", ReportConfig).examples_per_condition
    sets = [(model, condition) for model in models for condition in conditions]
    if not sets:
        raise DavssError(f"{params}: key 'noise_models' or 'conditions': name one of each")
    files = [Path("data/scores") / f"{model}-{condition}.parquet" for model, condition in sets]
    stages = [f"dvc repro score@{model}-{condition}" for model, condition in sets]
    tables = [read_manifest(*one, COLUMNS) for one in zip(files, stages, strict=True)]
    scores = pandas.concat(tables, ignore_index=True)
    examples = [
        example
        for _, own in scores.groupby(["noise_model", "condition"], sort=False)
        if own.noise_model.iloc[0] not in UNTRAINED  # sound of all would make the page heavy
        for example in read_examples(own, count)
    ]
    groups = summarise(scores)
    header = make_header(params, files)
    differences = paired_differences(scores)
    training, outcomes = read_training([SPEECH, *priors])
    faces = read_faces(Path("data/shards") / SPEECH_CORPUS)
    results = Results(
        header, scores, groups, examples, differences, training, outcomes, faces, read_robustness()
    )
    write(results, (priors or models)[0])
    say(groups, differences)


def say(groups: pandas.DataFrame, differences: pandas.DataFrame) -> None:
    """The results in lines, and where the page is."""
    for group in groups.itertuples():
        print(
            f"{noise_model(group.noise_model)}, {group.condition} noise, K = {group.num_speakers}, "
            f"{group.who} speakers: SI-SDRi {group.si_sdri:+.2f} ± {group.si_sdri_ci:.2f} dB over "
            f"{group.mixtures} mixtures" + (f", {group.failed} failed" if group.failed else "")
        )
    for claim in claims(differences):
        print(claim)
    print(f"report: {(OUT / 'index.html').resolve().as_uri()}")


def read_examples(scores: pandas.DataFrame, count: int) -> list[Example]:
    """Up to `count` examples of one noise model and condition, with their signals."""
    chosen = choose(scores, count)
    if not chosen:
        return []
    condition = scores.condition.iloc[0]
    rows = {row["key"]: row for row in read_mixtures(condition)}
    storage, library = open_storage(), open_library(condition)
    examples = []
    for key, why in chosen:
        own = scores[scores.key == key].set_index("source").to_dict("index")
        noise = own["noise"]
        facts = {"SIR": noise["sir_db"], "SNR": noise["snr_db"], "Residual": noise["residual_db"]}
        examples.append(
            Example(
                noise_model=noise["noise_model"],
                condition=condition,
                why=why,
                mixture=library.render(rows[key]),
                estimates=read_estimate(storage, noise["path"])[0],
                scores=own,
                facts={name: value for name, value in facts.items() if not math.isnan(value)},
                trace=read_trace(storage, noise["path"]),
            )
        )
    return examples


def read_training(
    names: list[str],
) -> tuple[dict[str, pandas.DataFrame], dict[str, dict[str, float]]]:
    """Histories and last figures of training by prior; priors trained elsewhere have none."""
    histories, outcomes = {}, {}
    for name in names:
        folder = Path("data/training") / name
        if (file := folder / "history.csv").is_file():
            with _written_by_training(file, name):
                histories[name] = pandas.read_csv(file)
                histories[name]["samples_seen"]  # a table that was saved anew may have other marks
        if (file := folder / "metrics.json").is_file():
            with _written_by_training(file, name):
                outcomes[name] = dict(json.loads(file.read_text()))
    return histories, outcomes


@contextmanager
def _written_by_training(file: Path, name: str) -> Iterator[None]:
    """DavssError for a file of training that is broken, or was changed by hand."""
    try:
        yield
    except (ValueError, KeyError, TypeError):
        stage = "train_speech" if name == SPEECH else f"train_noise@{name}"
        raise DavssError(
            f"{file}: not as training writes it; make it again with `dvc repro {stage}`"
        ) from None


def read_robustness() -> dict[str, pandas.DataFrame]:
    """Tables of the robustness plans that were run, by what they are about."""
    titles = {"robust_sound": "one speaker off-screen", "robust_lips": "two in view"}
    found = {}
    for name, title in titles.items():
        path = Path("data/experiments") / f"{name}.parquet"
        if path.is_file():
            rows = read_manifest(path, f"python -m pipelines.experiment {name}", COLUMNS)
            found[title] = robust_sound.table(rows[rows.source != "noise"], ExperimentConfig())
    return found


def make_header(params: str, files: list[Path]) -> Header:
    """Where the results come from; their date is that of the newest scores."""
    newest = max(path.stat().st_mtime for path in files)
    return Header(
        revision=git_revision(Path.cwd()),
        date=f"{datetime.fromtimestamp(newest, UTC):%d %B %Y, %H:%M UTC}".lstrip("0"),
        profile=load_section(params, "profile", str),
        sampler=to_dict(load_section(params, "sampler", SamplerConfig)),
        seed=load_section(params, "seed", int),
    )


def write(results: Results, main_model: str) -> None:
    """Page, figures and plots, each of them whole or not at all; those that DVC compares are of
    noise model `main_model`.
    """
    with publish(OUT / "index.html") as temporary:
        temporary.write_text(build_page(results), encoding="utf-8")
    found = results.groups, results.differences
    metrics = as_metrics(*found, main_model, results.outcomes)
    for name, text in {"scores": as_scores(*found), "metrics": metrics}.items():
        with publish(OUT / f"{name}.json") as temporary:
            temporary.write_text(text, encoding="utf-8")
    with publish(OUT / "plots") as folder:
        folder.mkdir()
        scores = results.scores
        # The plot cannot tell noise models apart: it is about the trained priors, as the page is.
        trained = (scores.source != "noise") & ~scores.noise_model.isin(list(UNTRAINED))
        scores.loc[trained, PLOTTED].to_csv(folder / "sources.csv", index=False)
        names = [f"{name}{ci}" for name in ("si_sdri", "si_sdr") for ci in ("", "_ci")]
        shown = ["noise_model", "condition", "num_speakers", "who", *names, "pesq", "estoi"]
        results.groups[shown].to_csv(folder / "means.csv", index=False)


if __name__ == "__main__":
    run(main)
