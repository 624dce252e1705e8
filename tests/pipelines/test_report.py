"""Separate, score and report in a row on a tiny project."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas
import pytest

from davss.errors import DavssError
from pipelines import report, score, separate

REPORT = "report: {examples_per_condition: 1}\n"


@pytest.fixture
def scored(project: Path) -> Path:
    for noise in ("wham", "nmf"):
        separate.main([noise, "wham"])
        score.main([noise, "wham"])
    folder = Path("data/training/speech")
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text("samples_seen,train_loss,valid_loss\n10,1.0,1.1\n20,.9,1\n")
    return project


def test_stage_writes_page_metrics_and_plots(scored, capsys, monkeypatch):
    with monkeypatch.context() as patch:  # a locale that is not UTF-8
        patch.setattr(io, "text_encoding", lambda encoding, _=2: encoding or "ascii")
        report.main([])
    html = Path("report/index.html").read_text(encoding="utf-8")
    assert html.count("<audio") == 5 + 7 and "wham-k1-000" in html and "speech prior: loss" in html
    assert "falls short" in html  # untrained priors
    metrics = json.loads(Path("report/metrics.json").read_text())
    assert set(metrics) == {"wham1", "wham2", "vs_nmf", "speech_gain", "noise_gain"}
    scores = json.loads(Path("report/scores.json").read_text())
    assert [group["mixtures"] for group in scores["groups"]] == [2] * 4
    assert scores["minus_nmf"][0]["mixtures"] == 4
    sources = pandas.read_csv("report/plots/sources.csv")
    assert len(sources) == 2 * 1 + 2 * 2 and sources.si_sdri.notna().all()
    assert set(sources.noise_model) == {"wham"}
    means = pandas.read_csv("report/plots/means.csv")
    assert list(means.noise_model) == ["wham"] * 2 + ["nmf"] * 2
    assert list(means.num_speakers) == [1, 2, 1, 2]
    said = capsys.readouterr().out
    assert (
        "diffusion (WHAM!), wham noise, K = 2, unknown speakers: SI-SDRi -" in said
        and "index.html" in said
    )
    assert "by more than 2 dB SI-SDR" in said and 'id="noise-models"' in html


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("history.csv", ""),
        ("history.csv", "\ufeffsamples_seen;valid_loss\n1;2\n"),  # saved by a spreadsheet
        ("metrics.json", '{"a": '),
        ("metrics.json", "1"),
    ],
)
def test_files_of_training_that_were_changed(tmp_path, monkeypatch, name, text):
    monkeypatch.chdir(tmp_path)
    folder = Path("data/training/wham")
    folder.mkdir(parents=True)
    assert report.read_training(["speech", "wham"]) == ({}, {})
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(DavssError, match=f"{name}: not as .*`dvc repro train_noise@wham`"):
        report.read_training(["speech", "wham"])


def test_nothing_to_report(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("noise_models: []\nnoise_priors: []\nconditions: [wham]\n" + REPORT)
    with pytest.raises(DavssError, match="'noise_models' or 'conditions': name one of each"):
        report.main(["--params", str(params)])


def test_what_is_missing_is_named_with_the_stage_that_makes_it(scored):
    Path("data/scores/nmf-wham.parquet").unlink()
    with pytest.raises(DavssError, match="scores/nmf-wham.parquet: .*`dvc repro score@nmf-wham`"):
        report.main([])
    Path("data/scores/wham-wham.parquet").unlink()
    with pytest.raises(DavssError, match="scores/wham-wham.parquet: .*`dvc repro score@wham-wham`"):
        report.main([])
    assert not Path("report").exists()
