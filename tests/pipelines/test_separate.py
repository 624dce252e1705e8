"""The separate stage on a tiny project, with real priors, shards and files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import ray.cloudpickle
import yaml

from davss.config import SamplerConfig
from davss.diffusion.prior import NoisePrior
from davss.errors import DavssError
from davss.evaluation import estimates, runner
from davss.evaluation.mixtures import rows_of
from pipelines import separate

MANIFEST = Path("data/estimates/wham-wham.parquet")


def change(section: str, **values) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def test_stage_writes_estimates_and_their_manifest(project, in_process):
    separate.main(["wham", "wham"])
    rows = pandas.read_parquet(MANIFEST)
    assert list(rows.columns) == list(estimates.COLUMNS) and rows.error.isna().all()
    assert list(rows.num_speakers) == [1, 1, 2, 2]
    assert (rows.evaluations == 2).all() and (rows.residual_db < 20).all()
    for row in rows.itertuples():
        sources, rate = estimates.read_estimate(Path("storage") / row.path)
        assert sources.shape == (row.num_speakers + 1, 8000) and rate == 8000
        trace = estimates.read_trace(Path("storage") / row.path)
        assert trace["likelihood_step"].shape == (2, row.num_speakers + 1)


def test_a_second_run_does_nothing_and_another_batch_size_changes_nothing(
    project, in_process, monkeypatch
):
    separate.main(["wham", "wham"])
    first = pandas.read_parquet(MANIFEST)
    before = MANIFEST.read_bytes()
    monkeypatch.setattr(runner, "_separate_all", lambda *_: pytest.fail("nothing to do"))
    change("separation", batch_size=1)
    separate.main(["wham", "wham"])
    assert MANIFEST.read_bytes() == before

    monkeypatch.undo()
    monkeypatch.chdir(project)
    shutil.rmtree("storage/estimates")
    monkeypatch.setattr(runner, "_separate_all", one_by_one)
    separate.main(["wham", "wham"])
    second = pandas.read_parquet(MANIFEST)
    for old, new in zip(first.itertuples(), second.itertuples(), strict=True):
        assert old.path == new.path
        assert old.residual_db == pytest.approx(new.residual_db, abs=0.01)


def one_by_one(todo, job, batch_size, num_actors):
    separator = job.make_separator(device="cpu")
    for row in rows_of(todo):
        yield from runner.separate_batch([row], job, separator)


def test_estimates_of_other_settings_lie_elsewhere(project):
    folders = {
        separate.make_job("wham", "wham", SamplerConfig(zeta=zeta), seed, manifest).folder
        for zeta in (0.5, 0.6)
        for seed in (0, 1)
        for manifest in ("a", "b")
    }
    assert len(folders) == 8 and all(folder.is_absolute() for folder in folders)


@pytest.mark.parametrize("noise", ["nmf", "none"])
def test_a_noise_model_without_training_needs_no_noise_prior(project, in_process, noise):
    shutil.rmtree("data/priors/wham")
    separate.main([noise, "wham"])
    rows = pandas.read_parquet(f"data/estimates/{noise}-wham.parquet")
    assert len(rows) == 4 and rows.error.isna().all()
    sources, _ = estimates.read_estimate(Path("storage") / rows.path[0])
    assert sources.shape == (2, 8000) and (sources.std(axis=1) > 0).all()


def test_estimates_of_other_noise_models_lie_elsewhere(project):
    jobs = {
        noise: separate.make_job(noise, "wham", SamplerConfig(), 0, "a")
        for noise in ("wham", "nmf", "gaussian", "none")
    }
    assert len({job.folder for job in jobs.values()}) == 4
    assert jobs["gaussian"].make_separator.args[1] == "gaussian"
    assert isinstance(jobs["wham"].make_separator.args[1], NoisePrior)


def test_the_job_travels_to_actors(project):
    job = separate.make_job("wham", "wham", SamplerConfig(num_steps=2), 0, "a")
    sent = ray.cloudpickle.loads(ray.cloudpickle.dumps(job))
    shutil.rmtree("data")  # only the storage is shared between machines
    row = {"key": "m", "num_speakers": 1, "speech_keys": ["voxceleb2-0"], "speech_offsets": [0]}
    row |= {"speech_gains": [1.0], "noise_key": "wham-0", "noise_offset": 0, "noise_gain": 1.0}
    row |= {"seconds": 1.0, "sample_rate": 8000}
    done = runner.separate_batch([row], sent, sent.make_separator(device="cpu"))
    assert done[0]["error"] is None and np.isfinite(done[0]["residual_db"])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("data/mixtures/wham.parquet", r"data/mixtures/wham.parquet: .*`dvc repro mixtures@wham`"),
        ("data/priors/speech", r"data/priors/speech: .*`dvc repro train_speech`"),
        ("data/priors/wham", r"data/priors/wham: .*`dvc repro train_noise@wham`"),
        ("data/shards/wham/test.clips.parquet", r"test.clips.parquet: .*shards stage"),
    ],
)
def test_what_is_missing_is_named_with_the_stage_that_makes_it(project, missing, message):
    path = Path(missing)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DavssError, match=message) as caught:
        separate.main(["wham", "wham"])
    assert "\n" not in str(caught.value) and not MANIFEST.exists()


def test_a_prior_of_the_other_kind_is_refused(project):
    shutil.rmtree("data/priors/wham")
    shutil.copytree("data/priors/speech", "data/priors/wham")
    with pytest.raises(DavssError, match="data/priors/wham: holds a speech prior"):
        separate.main(["wham", "wham"])


def test_a_wrong_number_of_actors_is_refused(project, monkeypatch):
    monkeypatch.setenv("DAVSS_NUM_ACTORS", "two")
    with pytest.raises(DavssError, match="DAVSS_NUM_ACTORS=two"):
        separate.main(["wham", "wham"])
