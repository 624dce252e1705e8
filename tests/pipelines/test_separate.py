"""The separate stage on a tiny project, with real priors, shards and files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import ray.cloudpickle
import yaml

from davss.config import SamplerConfig, SeparationConfig
from davss.diffusion.prior import NoisePrior
from davss.errors import DavssError
from davss.evaluation import records
from davss.evaluation.runner import Actors, Job, Separating
from davss.evaluation.trials import Arm
from davss.storage import LocalStore
from pipelines import evaluating, separate
from pipelines.clips import open_library
from pipelines.evaluating import Makers, make_job

MANIFEST = Path("data/estimates/wham-wham.parquet")


def change(section: str, **values) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def job_of(*arms: Arm, seed: int = 0) -> Job:
    return make_job(arms, open_library("wham"), seed, SeparationConfig())


def test_stage_writes_estimates_and_their_manifest(project):
    separate.main(["wham", "wham"])
    rows = pandas.read_parquet(MANIFEST)
    assert list(rows.columns) == list(records.COLUMNS) and rows.error.isna().all()
    assert list(rows.num_speakers) == [1, 1, 2, 2] and set(rows.arm) == {"wham"}
    assert (rows.evaluations == 2).all() and (rows.residual_db < 20).all()
    for row in rows.itertuples():
        sources, rate = records.read_estimate(LocalStore(Path("storage")), row.path)
        assert sources.shape == (row.num_speakers + 1, 8000) and rate == 8000
        trace = records.read_trace(LocalStore(Path("storage")), row.path)
        assert trace["likelihood_step"].shape == (2, row.num_speakers + 1)


def test_a_second_run_does_nothing_and_another_batch_size_changes_nothing(project, monkeypatch):
    separate.main(["wham", "wham"])
    first = pandas.read_parquet(MANIFEST)
    before = MANIFEST.read_bytes()
    monkeypatch.setattr(Makers, "__call__", lambda *_, **__: pytest.fail("nothing to do"))
    change("separation", batch_size=1)
    separate.main(["wham", "wham"])
    assert MANIFEST.read_bytes() == before

    monkeypatch.undo()
    monkeypatch.chdir(project)
    monkeypatch.setenv("DAVSS_NUM_ACTORS", "1")
    shutil.rmtree("storage/estimates")
    separate.main(["wham", "wham"])
    second = pandas.read_parquet(MANIFEST)
    for old, new in zip(first.itertuples(), second.itertuples(), strict=True):
        assert old.path == new.path
        assert old.residual_db == pytest.approx(new.residual_db, abs=0.01)


def test_more_mixtures_redo_none(project, monkeypatch):
    separate.main(["wham", "wham"])
    first = pandas.read_parquet(MANIFEST).set_index("key")
    manifest = Path("data/mixtures/wham.parquet")
    mixtures = pandas.read_parquet(manifest)
    more = mixtures[:1].assign(key="wham-k1-0002")
    pandas.concat([more, mixtures]).to_parquet(manifest)
    separate.main(["wham", "wham"])
    second = pandas.read_parquet(MANIFEST).set_index("key")
    assert len(second) == 5 and second.loc[first.index].equals(first), "with their seconds"


def test_what_desktops_leave_in_a_prior_redoes_nothing(project):
    before = evaluating.contents(Path("data/priors/wham"))
    Path("data/priors/wham/.DS_Store").write_bytes(b"x")
    Path("data/priors/wham/.ipynb_checkpoints").mkdir()
    assert evaluating.contents(Path("data/priors/wham")) == before and len(before) == 2


def test_estimates_of_other_settings_lie_elsewhere(project):
    base = Arm("wham", "wham", SamplerConfig(num_steps=2))
    others = [
        replace(base, sampler=SamplerConfig(num_steps=3)),
        replace(base, lips="none"),
        replace(base, noise="nmf"),
        replace(base, noise="gaussian"),
        replace(base, noise="none"),
    ]
    folders = [job_of(arm).folders["wham"] for arm in (base, *others)]
    folders.append(job_of(base, seed=1).folders["wham"])
    change_prior(Path("data/priors/wham"))
    folders.append(job_of(base).folders["wham"])
    assert len(set(folders)) == 8
    renamed = job_of(replace(base, name="another")).folders["another"]
    assert renamed == folders[-1], "a name decides nothing"


def test_a_run_begun_on_a_cpu_is_not_gone_on_with_in_another_precision_on_a_gpu(
    project, monkeypatch
):
    arm = Arm("wham", "wham", SamplerConfig(num_steps=2))
    found: dict[str, list[str]] = {"auto": [], "float32": []}
    for gpus in (0, 1):
        monkeypatch.setattr(evaluating, "available", lambda gpus=gpus: {"CPU": 2, "GPU": gpus})
        for precision, folders in found.items():
            job = make_job([arm], open_library("wham"), 0, SeparationConfig(precision=precision))
            folders.append(job.folders["wham"])
    assert found["auto"][0] != found["auto"][1] and found["float32"][0] == found["float32"][1]


def change_prior(folder: Path) -> None:
    (folder / "note").write_text("another")


@pytest.mark.parametrize("noise", ["nmf", "none"])
def test_a_noise_model_without_training_needs_no_noise_prior(project, noise):
    shutil.rmtree("data/priors/wham")
    separate.main([noise, "wham"])
    rows = pandas.read_parquet(f"data/estimates/{noise}-wham.parquet")
    assert len(rows) == 4 and rows.error.isna().all()
    sources, _ = records.read_estimate(LocalStore(Path("storage")), rows.path[0])
    assert sources.shape == (2, 8000) and (sources.std(axis=1) > 0).all()


def test_the_job_travels_to_actors(project):
    arm = Arm("wham", "wham", SamplerConfig(num_steps=2))
    (row, *_) = separate.plan("wham", "wham", arm.sampler)
    sent = ray.cloudpickle.loads(ray.cloudpickle.dumps(job_of(arm)))
    shutil.rmtree("data")  # only the storage is shared between machines
    assert isinstance(sent.make_separator.noises["wham"], NoisePrior)
    (done,) = Separating(sent, [arm], Actors(1, 1, 0)).separate(arm, [row.row])
    assert done["error"] is None and np.isfinite(done["residual_db"])


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
