"""The score stage on a tiny project whose estimates are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from davss.errors import DavssError
from davss.evaluation import scoring
from davss.evaluation.mixtures import rows_of
from davss.evaluation.records import make_record, write_record
from davss.evaluation.scoring import COLUMNS
from davss.processes import in_processes
from davss.storage import LocalStore
from pipelines import score
from pipelines.clips import open_library

SCORES, ESTIMATES = Path("data/scores/wham-wham.parquet"), Path("data/estimates/wham-wham.parquet")


@pytest.fixture
def separated(project: Path) -> Path:
    """The project with estimates of half the error of the mixture; the last mixture failed."""
    manifest = list(rows_of(pandas.read_parquet("data/mixtures/wham.parquet")))
    library, store, rows = open_library("wham"), LocalStore(Path("storage")), []
    for row in manifest[:-1]:
        mixture, name = library.render(row), row["key"]
        sources = np.concatenate([mixture.speech, mixture.noise[None]])
        record = make_record(row, 1.5, path=f"estimates/x/{name}.wav", sample_rate=8000)
        rows.append(
            write_record(store, f"estimates/x/{name}", record, (sources + mixture.mixture) / 2)
        )
    rows.append(make_record(manifest[-1], error="the sampler diverged"))
    ESTIMATES.parent.mkdir(parents=True)
    pandas.DataFrame(rows).to_parquet(ESTIMATES)
    return project


def test_stage_scores_every_source(separated):
    score.main(["wham", "wham"])
    scores = pandas.read_parquet(SCORES)
    assert list(scores.columns) == list(COLUMNS)
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


def test_many_trials_are_scored_in_several_processes_in_order(project, monkeypatch):
    count = scoring.WORTH_A_PROCESS + 1
    found = list(in_processes(str, list(range(count)), 2, "score", worth=scoring.WORTH_A_PROCESS))
    assert found == [str(i) for i in range(count)]
    monkeypatch.setenv("DAVSS_NUM_PROCESSES", "0")
    with pytest.raises(DavssError, match="DAVSS_NUM_PROCESSES=0"):
        score.main(["wham", "wham"])


def test_manifests_of_another_version_are_told(separated):
    manifests = {"estimates/wham-wham": "precision", "mixtures/wham": "pool"}
    for name, column in manifests.items():
        path = Path(f"data/{name}.parquet")
        pandas.read_parquet(path).drop(columns=column).to_parquet(path)
        with pytest.raises(DavssError, match=rf"{name}.*without {column}; make it again with `dvc"):
            score.main(["wham", "wham"])


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
