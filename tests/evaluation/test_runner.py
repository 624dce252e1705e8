"""The runner with a stand-in separator: batches, failures, interruption, and real Ray actors."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import ray.cloudpickle
import torch

from davss import cores
from davss.config import PRESETS, SamplerConfig
from davss.errors import DavssError
from davss.evaluation import records, runner
from davss.evaluation.batches import batches_of, passes
from davss.evaluation.mixtures import Mixture, rows_of
from davss.evaluation.scoring import score_plan
from davss.evaluation.trials import Arm, Trial, as_frame, cross
from davss.storage import LocalStore

RATE, SAMPLES, STEPS = 8000, 800, 3
ARM = Arm("wham", "wham", SamplerConfig(num_steps=STEPS))


class FakeLibrary:
    """Mixtures made up from their keys."""

    def render(self, row: dict[str, Any]) -> Mixture:
        if row["key"].startswith("unreadable"):
            raise DavssError(f"{row['key']}: shard is missing")
        rng = np.random.default_rng(list(row["key"].encode()))
        speech = rng.standard_normal((row["num_speakers"], SAMPLES)).astype(np.float32)
        noise = rng.standard_normal(SAMPLES).astype(np.float32)
        lips = np.ones((row["num_speakers"], 3, 4), np.float32)
        return Mixture(row["key"], speech.sum(0) + noise, speech, noise, lips, RATE)


@dataclass
class FakeSeparator:
    """Gives every source a share that depends on its key; fails on keys that say so."""

    arm: Arm
    device: str
    calls: list[list[str]] = field(default_factory=list)
    dtype: torch.dtype = torch.float32

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
            "retries": torch.zeros(len(keys)),
        }
        errors = ["not finite" if key.startswith("diverge") else None for key in keys]
        return SimpleNamespace(
            speech=share[:, :-1],
            noise=share[:, -1],
            trace=trace,
            num_evaluations=STEPS,
            errors=errors,
        )


def rows(*keys: str, speakers: int = 1) -> list[dict[str, Any]]:
    facts = {"num_speakers": speakers, "pool": ["lips"] * speakers, "condition": "wham"}
    facts |= {"seconds": SAMPLES / RATE, "sample_rate": RATE, "snr_db": 5.0}
    return [{"key": key, **facts} for key in keys]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> runner.Job:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return make_job(tmp_path)


def make_job(storage: Path) -> runner.Job:
    folders = {name: f"estimates/{name}" for name in ("wham", "nmf")}
    return runner.Job(FakeLibrary(), FakeSeparator, LocalStore(storage), folders)  # type: ignore[arg-type]


def separate(trials: list[Trial], job: runner.Job) -> dict[str, dict[str, Any]]:
    found = runner.run_plan(trials, job, batch_size=8, num_actors=1)
    return {row["key"]: row for row in found.to_dict("records")}


def test_a_trial_is_separated_written_and_described(job, tmp_path):
    trials = cross([ARM], rows("a", "bb", speakers=2))
    found = separate(trials, job)
    row, name = found["bb"], trials[1].name
    assert tuple(row) == records.COLUMNS and row["arm"] == "wham"
    assert row["path"] == f"estimates/wham/{name}.wav" and row["error"] is None
    assert row["evaluations"] == 3 and row["residual_db"] < -100
    assert row["precision"] == "float32"
    sources, rate = records.read_estimate(job.storage, row["path"])
    assert sources.shape == (3, SAMPLES) and rate == RATE
    mixture = job.library.render(trials[1].row)
    np.testing.assert_allclose(sources.sum(0), mixture.mixture, atol=1e-5)
    trace = records.read_trace(job.storage, row["path"])
    assert set(trace) == set(records.TRACE) and trace["prior_step"].shape == (3, 3)
    np.testing.assert_array_equal(trace["likelihood"], [1, 3, 5])
    assert records.finished(job.storage, job.place(trials[1])) == {
        n: row[n] for n in records.RECORD
    }


def test_a_bad_item_is_a_row_with_its_error_and_spoils_no_other(job, capsys):
    keys = ("crash-1", "diverge-1", "good", "unreadable-1")
    trials = cross([ARM], rows(*keys))
    found = separate(trials, job)
    assert found["crash-1"]["error"] == "RuntimeError: out of memory"
    assert found["unreadable-1"]["error"] == "unreadable-1: shard is missing"
    assert found["diverge-1"]["error"] == "not finite" and pandas.isna(found["diverge-1"]["path"])
    assert pandas.isna(found["good"]["error"])
    suffixes = sorted(
        path.name.partition(".")[2] for path in (job.storage.root / job.folders["wham"]).iterdir()
    )
    assert suffixes == ["json", "json", "trace.npz", "wav"], "of good, and why diverge-1 has none"
    assert "failed=3" in capsys.readouterr().err
    done = runner.find_records(trials, job)
    assert sorted(name.rsplit("-", 1)[0] for _, name in done) == ["diverge-1", "good"]
    scores = score_plan(
        trials, pandas.DataFrame(found.values()), job.library, job.storage, perceptual=False
    )
    assert scores[scores.key == "good"].si_sdr.notna().all()
    assert set(scores[scores.key == "crash-1"].error) == {"separation: RuntimeError: out of memory"}


def test_what_is_damaged_is_done_again_and_nothing_else(job, monkeypatch):
    trials = cross([ARM, replace(ARM, name="nmf", noise="nmf")], rows("a", "b", "c", "diverge"))
    first = runner.run_plan(trials, job, 2, 1)
    (job.storage.root / job.folders["wham"] / f"{trials[0].name}.wav").write_bytes(b"RIFF")
    (job.storage.root / job.folders["nmf"] / f"{trials[1].name}.json").write_text("{")
    made: list[FakeSeparator] = []

    def make(arm, device):
        made.append(FakeSeparator(arm, device))
        return made[-1]

    again = runner.run_plan(trials, replace(job, make_separator=make), 2, 1)
    assert sorted((one.arm.name, one.calls) for one in made) == [
        ("nmf", [["b"]]),
        ("wham", [["a"]]),
    ]
    timeless = [name for name in records.COLUMNS if name != "seconds_taken"]
    pandas.testing.assert_frame_equal(again[timeless], first[timeless])
    other = replace(trials[0], row=trials[0].row | {"noise_gain": 2.0})
    assert other.name != trials[0].name, "another mixture of the same key has other files"


def test_batches_are_of_one_arm_and_shape_and_the_costliest_come_first():
    cheap = Arm("fast", "nmf", PRESETS["fast"])
    mixed = [*rows(*"abcde"), *rows(*"fgh", speakers=3)]
    trials = cross([cheap, ARM], mixed)
    batches = batches_of(trials, 4, 1)
    assert sum(map(len, batches)) == len(trials) and max(map(len, batches)) == 4
    for batch in batches:
        assert len({(trial.arm, trial.row["num_speakers"]) for trial in batch}) == 1
    costs = [sum(map(passes, batch)) for batch in batches]
    assert costs == sorted(costs, reverse=True)
    assert max(passes(trial) for trial in trials if trial.arm is cheap) == 40 * 3
    sizes = [len(batch) for batch in batches_of(cross([ARM], rows(*"abcde")), 4, 2)]
    assert sizes == [3, 2], "all actors have work"


def test_a_plan_is_a_parquet_manifest(tmp_path):
    (row,) = rows("a", speakers=2)
    row |= {"speech_gains": [0.5, 0.25], "sir_db": float("nan"), "speaker_seen": [None, True]}
    as_frame([Trial(ARM, row)]).to_parquet(tmp_path / "plan.parquet")
    (read,) = rows_of(pandas.read_parquet(tmp_path / "plan.parquet"))
    assert read["arm"] == "wham" and '"num_steps": 3' in read["sampler"]
    assert Trial(ARM, {name: read[name] for name in row}).name == Trial(ARM, row).name
    seen = row | {"speaker_seen": [False, False]}
    assert Trial(ARM, seen).name == Trial(ARM, row).name, "a remark decides nothing"


def test_actors_follow_the_machine():
    assert runner.plan_actors({"CPU": 2}, None) == runner.Actors(2, 1, 0)
    assert runner.plan_actors({"CPU": 2}, 1) == runner.Actors(1, 2, 0)
    assert runner.plan_actors({"CPU": 16, "GPU": 4}, None) == runner.Actors(4, 4, 1)


def test_residual_is_in_db_of_the_mixture():
    mixture = np.ones(100, np.float32)
    assert runner.residual_db(mixture, 0.45 * np.ones((2, 100))) == pytest.approx(-20)


def test_actors_and_this_process_make_the_same_table(job, tmp_path):
    # Ray's workers cannot import this file: send its functions themselves.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    trials = cross([ARM], [*rows("one", "diverge-1"), *rows("a", "b", "c", speakers=2)])
    alone = runner.run_plan(trials, job, 4, 1)
    many = runner.run_plan(trials, make_job(tmp_path / "many"), 2, 2)
    same = [name for name in records.COLUMNS if name != "seconds_taken"]
    pandas.testing.assert_frame_equal(alone[same], many[same])
    assert list(many.error.isna()) == [True, False, True, True, True]


KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from tests.evaluation.test_runner import FakeSeparator, PLAN, make_job, runner

class Dying(FakeSeparator):
    def __call__(self, *args, **kwargs):
        if len(self.calls) == 4:
            os.kill(os.getpid(), 9)
        return super().__call__(*args, **kwargs)

runner.run_plan(PLAN, replace(make_job(Path(sys.argv[1])), make_separator=Dying), 1, 1)
"""
PLAN = cross([ARM], rows(*map(str, range(9))))


def test_killed_and_started_again_it_ends_with_the_identical_table(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    jobs = [make_job(tmp_path / name) for name in ("killed", "whole")]
    assert len(runner.find_records(PLAN, jobs[0])) == 4, "what was done is kept"
    tables = [runner.run_plan(PLAN, job, 1, 1).drop(columns="seconds_taken") for job in jobs]
    pandas.testing.assert_frame_equal(*tables)


def test_all_failing_is_an_error(job):
    with pytest.raises(DavssError, match="every mixture failed.*not finite"):
        runner.run_plan(cross([ARM], rows("diverge-1", "diverge-2")), job, 2, 1)


OFTEN_KILLED = """
import sys, time
from dataclasses import replace
from pathlib import Path
import ray.cloudpickle
import tests.evaluation.test_runner as here

class Slow(here.FakeSeparator):
    def __call__(self, *args, **kwargs):
        time.sleep(0.1)
        return super().__call__(*args, **kwargs)

for module in (here, sys.modules["__main__"]):
    ray.cloudpickle.register_pickle_by_value(module)
storage, table = map(Path, sys.argv[1:])
job = replace(here.make_job(storage), make_separator=Slow)
found = here.runner.run_plan(here.MANY, job, 2, 2)
found.drop(columns="seconds_taken").to_parquet(table)
"""
MANY = cross([ARM], rows(*(f"{n:03d}" if n % 50 else f"diverge-{n:03d}" for n in range(200))))


@pytest.mark.parametrize("address", ["", "local"])
def test_a_ray_of_its_own_has_all_of_this_machine(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert runner.available()["CPU"] == cores.count()
    assert not ray.is_initialized()


@pytest.mark.slow
def test_killed_three_times_under_ray_the_table_is_the_same_to_the_byte(tmp_path, monkeypatch):
    """First the driver with its Ray node, then an actor, then the driver alone."""
    psutil = pytest.importorskip("psutil")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = [sys.executable, "-c", OFTEN_KILLED, str(tmp_path / "killed"), str(tmp_path / "a")]

    def done() -> int:
        return len(list((tmp_path / "killed").rglob("*.json")))

    def start_and_wait_for(count: int) -> subprocess.Popen:
        process = subprocess.Popen(command, start_new_session=True)
        end = time.monotonic() + 240
        while done() < count and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert process.poll() is None and done() >= count
        return process

    process = start_and_wait_for(30)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = done()
    process = start_and_wait_for(first + 30)
    every = psutil.Process(process.pid).children(recursive=True)
    actors = [child for child in every if "MapBatches" in " ".join(child.cmdline())]
    assert actors, [" ".join(child.cmdline())[:60] for child in every]
    actors[0].kill()
    end = time.monotonic() + 60
    while done() < first + 60 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True) if not process.poll() else []
    process.kill()
    process.wait()
    for child in children:  # what an orphaned node leaves would hold this machine's CPUs
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    assert first + 30 <= done() < len(MANY), "killed before the end, and nothing was lost"
    assert subprocess.run(command).returncode == 0
    whole = runner.run_plan(MANY, make_job(tmp_path / "whole"), 2, 1)
    whole.drop(columns="seconds_taken").to_parquet(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
