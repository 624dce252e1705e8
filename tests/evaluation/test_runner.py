"""The runner with a stand-in separator: batches, failures, resumption, and once through real Ray
actors.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import ray
import ray.cloudpickle
import torch

from davss.errors import DavssError
from davss.evaluation import estimates, runner
from davss.evaluation.mixtures import Mixture

RATE, SAMPLES, STEPS = 8000, 800, 3


def render(row: dict[str, Any]) -> Mixture:
    if row["key"].startswith("unreadable"):
        raise DavssError(f"{row['key']}: shard is missing")
    rng = np.random.default_rng(len(row["key"]))
    speech = rng.standard_normal((row["num_speakers"], SAMPLES)).astype(np.float32)
    noise = rng.standard_normal(SAMPLES).astype(np.float32)
    lips = np.ones((row["num_speakers"], 3, 4), np.float32)
    return Mixture(row["key"], speech.sum(0) + noise, speech, noise, lips, RATE)


@dataclass
class FakeSeparator:
    """Gives every source an equal share; fails on keys that say so."""

    device: str
    calls: list[list[str]]

    def __call__(self, mixture, *, lips, num_speakers, sample_rate, keys, seed):
        self.calls.append(keys)
        if any(key.startswith("crash") for key in keys):
            raise RuntimeError("out of memory\nand more lines")
        assert lips.shape == (len(keys), num_speakers, 3, 4) and sample_rate == RATE
        share = mixture[:, None].expand(-1, num_speakers + 1, -1) / (num_speakers + 1)
        shape = (STEPS, len(keys), num_speakers + 1)
        trace = {
            "sigma": torch.logspace(-1, -3, STEPS),
            "likelihood": torch.arange(STEPS * len(keys)).reshape(STEPS, -1),
            "prior_step": torch.ones(shape),
            "likelihood_step": torch.ones(shape),
        }
        errors = ["not finite" if key.startswith("diverge") else None for key in keys]
        return SimpleNamespace(
            speech=share[:, :-1],
            noise=share[:, -1],
            trace=trace,
            num_evaluations=STEPS,
            errors=errors,
        )


def make_separator(device: str) -> FakeSeparator:
    return FakeSeparator(device, [])


def manifest(*keys: str, speakers: int = 1) -> pandas.DataFrame:
    return pandas.DataFrame({"key": keys, "num_speakers": speakers})


@pytest.fixture
def job(tmp_path: Path) -> runner.SeparationJob:
    return runner.SeparationJob(render, make_separator, tmp_path, tmp_path / "estimates" / "x")


def test_a_batch_is_separated_written_and_described(job, tmp_path):
    rows = manifest("a", "bb", speakers=2).to_dict("records")
    done = runner.separate_batch(rows, job, make_separator("cpu"))
    assert [tuple(row) for row in done] == [estimates.COLUMNS] * 2
    row = done[1]
    assert row["path"] == "estimates/x/bb.wav" and row["error"] is None and row["evaluations"] == 3
    assert row["residual_db"] < -100
    sources, rate = estimates.read_estimate(tmp_path / row["path"])
    assert sources.shape == (3, SAMPLES) and rate == RATE
    np.testing.assert_allclose(sources.sum(0), render(rows[1]).mixture, atol=1e-5)
    trace = estimates.read_trace(tmp_path / row["path"])
    assert trace["sigma"].shape == (3,) and trace["prior_step"].shape == (3, 3)
    np.testing.assert_array_equal(trace["likelihood"], [1, 3, 5])
    assert estimates.finished(job.folder, "bb") == row


def test_a_failing_item_spoils_no_other(job):
    separator = make_separator("cpu")
    rows = manifest("crash-1", "diverge-1", "good", "unreadable-1").to_dict("records")
    done = {row["key"]: row for row in runner.separate_batch(rows, job, separator)}
    assert done["crash-1"]["error"] == "RuntimeError: out of memory"
    assert done["unreadable-1"]["error"] == "unreadable-1: shard is missing"
    assert done["diverge-1"]["error"] == "not finite" and done["diverge-1"]["path"] is None
    assert done["good"]["error"] is None
    assert {path.name for path in job.folder.iterdir()} == {
        "good.wav",
        "good.json",
        "good.trace.npz",
    }


def test_damaged_estimates_are_not_finished(job):
    runner.separate_batch(manifest("a", "b", "c").to_dict("records"), job, make_separator("cpu"))
    (job.folder / "a.wav").write_bytes(b"RIFF")
    (job.folder / "b.json").write_text("{")
    (job.folder / "c.trace.npz").unlink()
    assert [estimates.finished(job.folder, key) for key in "abcd"] == [None] * 4


def test_batches_have_one_k_each_and_keep_all_actors_busy():
    plan = pandas.concat(
        [manifest(*(f"k{k}-{i}" for i in range(5)), speakers=k) for k in (1, 3, 2)]
    )
    assert [len(batch) for batch in runner.batches_of(plan, 4, 1)] == [4, 1] * 3
    assert [len(batch) for batch in runner.batches_of(plan, 4, 2)] == [3, 2] * 3
    assert runner.batches_of(plan, 4, 1)[0] == ["k3-0", "k3-1", "k3-2", "k3-3"]
    assert [len(batch) for batch in runner.batches_of(plan[:1], 4, 8)] == [1]


def test_actors_follow_the_machine(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert runner._plan_workers({"CPU": 4}, None, 2) == runner.Workers(2, 1, 0)
    assert runner._plan_workers({"CPU": 4}, 1, 2) == runner.Workers(1, 2, 0)
    assert runner._plan_workers({"CPU": 16, "GPU": 4}, None, 16) == runner.Workers(4, 4, 1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert runner._plan_workers({"CPU": 32}, None, 2) == runner.Workers(32, 1, 0)


def test_residual_is_in_db_of_the_mixture():
    mixture = np.ones(100, np.float32)
    assert runner.residual_db(mixture, 0.45 * np.ones((2, 100))) == pytest.approx(-20)


def test_run_through_ray_and_resume(job, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Ray's workers cannot import this file: send its functions themselves.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    plan = pandas.concat(
        [manifest("one", "diverge-1"), manifest("two-a", "two-b", "two-c", speakers=2)]
    )
    first = runner.run_separation(plan, job, batch_size=2, num_actors=1)
    assert list(first.key) == list(plan.key) and list(first.columns) == list(estimates.COLUMNS)
    assert list(first.error.isna()) == [True, False, True, True, True]
    first.to_parquet(tmp_path / "rows.parquet")

    # Everything is finished but the failed one and one that was lost: nothing else is touched.
    (job.folder / "two-b.wav").unlink()
    before = {p: p.stat().st_mtime_ns for p in job.folder.glob("*.wav")}
    seen: list[list[str]] = []

    def note(todo, *_):
        seen.append(list(todo.key))
        return (
            row
            for _, one in todo.groupby("num_speakers")
            for row in runner.separate_batch(one.to_dict("records"), job, make_separator("cpu"))
        )

    monkeypatch.setattr(runner, "_separate_all", note)
    second = runner.run_separation(plan, job, batch_size=2)
    assert seen == [["diverge-1", "two-b"]]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert list(second.sha256.dropna()) == list(first.sha256.dropna())


def test_all_failing_is_an_error_and_nothing_to_do_needs_no_ray(job, monkeypatch):
    def local(todo, *_):
        return iter(runner.separate_batch(todo.to_dict("records"), job, make_separator("cpu")))

    monkeypatch.setattr(runner, "_separate_all", local)
    with pytest.raises(DavssError, match="every mixture failed.*not finite"):
        runner.run_separation(manifest("diverge-1", "diverge-2"), job, batch_size=2)
    runner.run_separation(manifest("a"), job, batch_size=2)
    monkeypatch.setattr(runner, "_separate_all", lambda *_: pytest.fail("nothing to do"))
    assert len(runner.run_separation(manifest("a"), job, batch_size=2)) == 1
    assert "RAY_ADDRESS" not in os.environ
