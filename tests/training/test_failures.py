"""Processes that die, are asked to go, or lose their disk or their node: real ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from davss.training import checkpoint
from tests.training.conftest import write_corpus, write_params
from tests.training.test_train_stage import start

pytestmark = pytest.mark.slow
TOTAL, EVERY = 1200, 16


@pytest.fixture
def tiny(project, monkeypatch) -> Path:
    """The project with a run long enough to be disturbed."""
    write_corpus("voxceleb2", True, monkeypatch)
    write_params(project, total_samples=TOTAL, validate_every=TOTAL, checkpoint_every=EVERY)
    return project


def wait_for_checkpoint(stage: subprocess.Popen, after: int = 0) -> int:
    """Samples seen of the first checkpoint newer than `after` samples."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert stage.poll() is None, stage.communicate()
        for path in Path("storage/training").glob("*/checkpoints/checkpoint-*.pt"):
            if (seen := int(path.name[11:23])) > after:
                return seen
        time.sleep(0.05)
    raise AssertionError("no checkpoint")


def workers(stage: subprocess.Popen) -> list[psutil.Process]:
    """The training workers of a stage with a Ray of its own."""
    children = psutil.Process(stage.pid).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]


def checked_end(stage: subprocess.Popen) -> list[int]:
    """Where the run went on, once the stage has ended well."""
    _, errors = stage.communicate(timeout=300)
    assert stage.returncode == 0, errors
    assert f"speech {TOTAL}/{TOTAL} samples" in errors
    assert saved()["samples_seen"] == TOTAL
    assert Path("data/priors/speech/weights.safetensors").is_file()
    return [int(seen) for seen in re.findall(r"speech goes on from (\d+) samples", errors)]


def saved() -> dict:
    (folder,) = Path("storage/training").glob("*/checkpoints")
    state = checkpoint.load_newest(folder)
    assert state is not None
    return state


def finish() -> list[int]:
    """Run the stage to its end; where it went on."""
    return checked_end(start("speech", DAVSS_NUM_WORKERS="1"))


def test_a_killed_worker_is_started_again(tiny):
    stage = start("speech", DAVSS_NUM_WORKERS="2")
    seen = wait_for_checkpoint(stage)
    workers(stage)[0].kill()
    (resumed,) = checked_end(stage)
    assert resumed >= seen and resumed % EVERY == 0


def test_a_worker_that_is_asked_to_go_saves_first(tiny):
    stage = start("speech", DAVSS_NUM_WORKERS="2")
    seen = wait_for_checkpoint(stage)
    workers(stage)[1].send_signal(signal.SIGTERM)
    (resumed,) = checked_end(stage)
    assert resumed > seen


def test_the_driver_is_killed(tiny):
    stage = start("speech", DAVSS_NUM_WORKERS="2")
    seen = wait_for_checkpoint(stage)
    trainers = workers(stage)
    stage.kill()
    stage.communicate()
    _, alive = psutil.wait_procs(trainers, timeout=60)
    assert trainers and not alive, "workers end with their driver"
    newest = saved()["samples_seen"]
    assert newest >= seen
    assert finish() == [newest]


def test_sigterm_saves_then_the_run_ends_as_an_undisturbed_one(tiny):
    stage = start("speech", DAVSS_NUM_WORKERS="1")
    wait_for_checkpoint(stage)
    stage.terminate()
    _, errors = stage.communicate(timeout=120)
    assert stage.returncode == 128 + signal.SIGTERM, errors
    stopped = int(re.search(r"speech stopped at (\d+) samples; run the stage again", errors)[1])
    assert saved()["samples_seen"] == stopped
    assert finish() == [stopped]
    disturbed = Path("data/priors/speech/weights.safetensors").read_bytes()
    for folder in Path("storage/training").glob("*"):
        folder.rename(tiny / "elsewhere")
    assert finish() == []
    assert Path("data/priors/speech/weights.safetensors").read_bytes() == disturbed


def test_a_torn_checkpoint_costs_one_interval(tiny):
    stage = start("speech", DAVSS_NUM_WORKERS="1")
    wait_for_checkpoint(stage, after=2 * EVERY)
    stage.kill()
    stage.communicate()
    time.sleep(3)  # its workers end a moment later
    paths = sorted(Path("storage/training").glob("*/checkpoints/checkpoint-*.pt"))
    paths[-1].write_bytes(paths[-1].read_bytes()[:-1000])
    assert finish() == [int(paths[-2].name[11:23])]


def test_a_full_disk_ends_the_run_in_one_line(tiny):
    stage = start("speech", DAVSS_NUM_WORKERS="1")
    wait_for_checkpoint(stage)
    (worker,) = workers(stage)
    # No room for another checkpoint: files of this process may have 100 kB.
    worker.rlimit(psutil.RLIMIT_FSIZE, (100_000, 100_000))
    _, errors = stage.communicate(timeout=240)
    assert stage.returncode == 2, errors
    last = errors.splitlines()[-1]
    assert last.startswith("error: ") and "cannot save a checkpoint" in last and "free some" in last
    newest = saved()["samples_seen"]
    assert f"checkpoint-{newest:012d}" in last
    assert finish() == [newest]


def test_a_hung_worker_is_ended_and_the_run_goes_on(tiny):
    write_params(
        tiny,
        total_samples=TOTAL,
        validate_every=TOTAL,
        checkpoint_every=EVERY,
        hang_factor=5.0,
        hang_seconds=4.0,
    )
    stage = start("speech", DAVSS_NUM_WORKERS="2")
    wait_for_checkpoint(stage, after=4 * 12)
    hung = workers(stage)[1]
    hung.suspend()  # the other one waits for it
    time.sleep(15)
    if hung.is_running():
        hung.resume()
    (log,) = Path("storage/training").glob("*/train.log")
    assert "Timeout" in log.read_text() and "loop.py" in log.read_text()
    assert checked_end(stage)


def test_a_node_is_taken_away(tiny, monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster()
    cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    second = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    try:
        stage = start(
            "speech", DAVSS_NUM_WORKERS="1-2", RAY_ADDRESS=cluster.address, OMP_NUM_THREADS="1"
        )
        seen = wait_for_checkpoint(stage)
        cluster.remove_node(second, allow_graceful=False)
        resumed = checked_end(stage)
        assert resumed and resumed[0] >= seen
    finally:
        cluster.shutdown()
        ray.shutdown()
    assert os.environ.get("RAY_ADDRESS") is None
