"""The score stage on a tiny project whose estimates are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from davss.errors import DavssError
from davss.evaluation.estimates import write_estimate
from davss.evaluation.mixtures import render, rows_of
from davss.evaluation.runner import _row
from davss.shards.reader import ShardReader
from pipelines import score

SCORES, ESTIMATES = Path("data/scores/wham-wham.parquet"), Path("data/estimates/wham-wham.parquet")


@pytest.fixture
def separated(project: Path) -> Path:
    """The project with estimates of half the error of the mixture; the last mixture failed."""
    manifest = pandas.read_parquet("data/mixtures/wham.parquet")
    speech = ShardReader(Path("data/shards/voxceleb2"), Path("storage"), "test")
    noise = ShardReader(Path("data/shards/wham"), Path("storage"), "test")
    folder, rows = Path("storage/estimates/x"), []
    for row in list(rows_of(manifest))[:-1]:
        mixture = render(row, speech, noise)
        sources = np.concatenate([mixture.speech, mixture.noise[None]])
        path = f"estimates/x/{row['key']}.wav"
        facts = _row(row, 1.5, path=path, sample_rate=8000, evaluations=2, residual_db=-6.0)
        rows.append(write_estimate(folder, (sources + mixture.mixture) / 2, {}, facts))
    rows.append(_row(list(rows_of(manifest))[-1], error="the sampler diverged"))
    ESTIMATES.parent.mkdir(parents=True)
    pandas.DataFrame(rows).to_parquet(ESTIMATES)
    return project


def test_stage_scores_every_source(separated):
    score.main(["wham", "wham"])
    scores = pandas.read_parquet(SCORES)
    assert list(scores.columns) == list(score.COLUMNS)
    assert set(scores.noise_model) == {"wham"} and set(scores.condition) == {"wham"}
    assert len(scores) == 2 * 2 + 2 * 3  # K + 1 sources of two mixtures for K = 1, 2
    good = scores[scores.key != "wham-k2-0001"]
    speech, noise = good[good.source != "noise"], good[good.source == "noise"]
    assert (speech.si_sdri > 3).all() and np.isfinite(noise.si_sdr).all()
    assert speech[["estoi", "estoi_mixture"]].notna().all(axis=None)
    assert noise[["pesq", "estoi"]].isna().all(axis=None)
    assert scores.groupby("source").size().to_dict() == {"noise": 4, "speaker_1": 4, "speaker_2": 2}


def test_a_failed_mixture_has_its_reason_and_no_scores(separated):
    score.main(["wham", "wham"])
    failed = pandas.read_parquet(SCORES).query("key == 'wham-k2-0001'")
    assert list(failed.source) == ["speaker_1", "speaker_2", "noise"]
    assert failed.si_sdr.isna().all()
    assert (failed.error == "separation: the sampler diverged").all()


def test_many_mixtures_are_scored_in_several_processes_in_order(monkeypatch):
    monkeypatch.setenv("DAVSS_NUM_PROCESSES", "2")
    count = score.WORTH_A_PROCESS + 1
    assert list(score._parallel(str, list(range(count)))) == [str(i) for i in range(count)]
    monkeypatch.setenv("DAVSS_NUM_PROCESSES", "0")
    with pytest.raises(DavssError, match="DAVSS_NUM_PROCESSES=0"):
        list(score._parallel(str, [1]))


def test_missing_estimates_are_named(separated):
    wav = next(Path("storage/estimates").rglob("*.wav"))
    wav.unlink()
    with pytest.raises(DavssError, match=rf"{wav.name}: estimate is missing.*dvc repro"):
        score.main(["wham", "wham"])
    ESTIMATES.unlink()
    with pytest.raises(DavssError, match="wham-wham.parquet: .*`dvc repro separate@wham-wham`"):
        score.main(["wham", "wham"])
    assert not SCORES.exists()


def test_estimates_of_other_mixtures_are_refused(separated):
    pandas.read_parquet(ESTIMATES)[1:].to_parquet(ESTIMATES)
    with pytest.raises(DavssError, match="no estimate of mixture wham-k1-0000"):
        score.main(["wham", "wham"])
