"""Resumes are exact, on real shards: the same losses to the bit, whatever came between."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing

from davss.training import checkpoint, loop, reporter
from davss.training.job import Worker
from pipelines.training_job import make_job
from tests.training.conftest import write_corpus, write_params


@pytest.fixture
def losses(monkeypatch) -> dict[int, float]:
    """Loss of every step by samples seen, also of steps that were done again."""
    seen: dict[int, float] = {}
    after_step = reporter.Reporter.after_step

    def spy(self, loss, norm, rate, bad):
        if self.state.samples_seen in seen:
            assert seen[self.state.samples_seen] == loss
        seen[self.state.samples_seen] = loss
        after_step(self, loss, norm, rate, bad)

    monkeypatch.setattr(reporter.Reporter, "after_step", spy)
    return seen


def job_of(folder: Path, prior: str = "speech"):
    job = make_job(prior, Path("params.yaml"), "disabled")
    return replace(job, state=folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_newest(folder / "checkpoints")["prior"]


def stops_after(count: int):
    calls = itertools.count(1)
    return lambda: next(calls) >= count


@pytest.mark.parametrize("max_batch", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_bit_equal_after_any_interruption(project, monkeypatch, losses, max_batch):
    write_corpus("voxceleb2", True, monkeypatch)
    write_params(project, max_batch_per_worker=max_batch, total_samples=20)
    loop.train(job_of(project / "whole"))
    undisturbed = dict(losses)
    assert sorted(undisturbed) == list(range(4, 24, 4))
    losses.clear()
    for count in (2, 1):
        assert not loop.train(job_of(project / "halves"), should_stop=stops_after(count))
    assert loop.train(job_of(project / "halves"))
    assert losses == undisturbed
    one, two = weights(project / "whole"), weights(project / "halves")
    assert all(torch.equal(one[name], two[name]) for name in one)


def worker_of_two(rank: int, folder: Path, rendezvous: str, stop_after: int) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    # Only rank 1 is asked to stop: both must.
    stop = stops_after(stop_after if rank else 10**9)
    loop.train(job_of(folder), Worker(rank, 2), stop)
    torch.distributed.destroy_process_group()


def train_with_two(folder: Path, stop_after: int = 10**9) -> None:
    rendezvous = str(folder.with_name(f"{folder.name}-{time.monotonic_ns()}"))
    multiprocessing.spawn(worker_of_two, (folder, rendezvous, stop_after), nprocs=2)


@pytest.mark.slow
def test_two_one_two_workers_are_one_run(project, monkeypatch, losses):
    write_corpus("voxceleb2", True, monkeypatch)
    write_params(project, global_batch_size=5, total_samples=40, audio_only_fraction=0.3)
    write_corpus("other", False, monkeypatch)
    params = Path("params.yaml")
    params.write_text(
        params.read_text().replace(
            "audio_only_fraction: 0.3", "audio_only_fraction: 0.3\n    audio_only_corpus: other"
        )
    )
    loop.train(job_of(project / "one"))
    mixed = project / "mixed"
    train_with_two(mixed, stop_after=3)
    assert checkpoint.load_newest(mixed / "checkpoints")["samples_seen"] == 15
    losses_of_one = dict(losses)
    losses.clear()
    assert not loop.train(job_of(mixed), should_stop=stops_after(2))
    for seen, loss in losses.items():
        assert math.isclose(loss, losses_of_one[seen], rel_tol=1e-4)
    train_with_two(mixed)
    saved = checkpoint.load_newest(mixed / "checkpoints")
    assert saved["samples_seen"] == 40
    one = weights(project / "one")
    for name, value in saved["prior"].items():
        torch.testing.assert_close(value, one[name], rtol=1e-2, atol=2e-4)


def test_parts_are_one_batch_to_rounding(project, monkeypatch, losses):
    write_corpus("voxceleb2", True, monkeypatch)
    write_params(project, total_samples=8)
    loop.train(job_of(project / "whole"))
    whole = dict(losses)
    losses.clear()
    write_params(project, total_samples=8, max_batch_per_worker=1)
    loop.train(job_of(project / "parts"))
    assert losses == pytest.approx(whole, rel=1e-5)
    one, two = weights(project / "whole"), weights(project / "parts")
    for name, value in one.items():
        # Adam makes steps of the same size of gradients that are nothing but rounding
        torch.testing.assert_close(value, two[name], rtol=1e-2, atol=2e-4)


def test_precisions_agree(project, monkeypatch, losses):
    write_corpus("wham", False, monkeypatch)
    write_params(project, total_samples=16)
    loop.train(job_of(project / "plain", "wham"))
    plain = dict(losses)  # of the first two steps the output is still the input's, in any precision
    losses.clear()
    write_params(project, total_samples=16, precision="bfloat16")
    loop.train(job_of(project / "other", "wham"))
    assert losses == pytest.approx(plain, rel=3e-2) and losses != plain


HANG = """
import sys, time
from pathlib import Path
from davss.training.watchdog import Watchdog
watchdog = Watchdog(5.0, 0.2, Path(sys.argv[1]))
for _ in range(12):
    with watchdog.step():
        time.sleep(0.01)
time.sleep(0.4)  # between steps: validation, checkpoints
print("alive", flush=True)
with watchdog.step():
    time.sleep(30)
"""


def test_the_watchdog_tells_a_hung_step_from_slow_ones(tmp_path):
    command = [sys.executable, "-c", HANG, tmp_path / "train.log"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (1, "alive\n"), done.stderr
    assert "Timeout (0:00:00.2" in (tmp_path / "train.log").read_text()
