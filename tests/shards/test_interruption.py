"""The real command killed at random moments, and run again: the same bytes, nothing done twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from davss.storage import open_store, sha256
from pipelines.compose import compose

ROOT = Path(__file__).parents[2]
CLIPS = {"tr": 700, "cv": 40, "tt": 40}
COMMAND = [sys.executable, "-m", "pipelines.shards", "wham"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """WHAM! with enough files for a dozen seconds of work, two of them unusable."""
    root = tmp_path_factory.mktemp("wham") / "wham_noise"
    for split, count in CLIPS.items():
        (root / split).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng(index)
            audio = (1000 * rng.standard_normal((16_000 * 6, 2))).astype(np.int16)
            soundfile.write(root / split / f"{split}{index}.wav", audio, 16_000)
    (root / "tr/tr5.wav").write_bytes(b"RIFF")
    soundfile.write(root / "tr/tr6.wav", np.zeros((16_000, 2)), 16_000)
    return root


def project(folder: Path, corpus: Path | str) -> Path:
    folder.mkdir()
    settings = ["shards.shard_megabytes=10", f"corpora.wham.root={corpus}"]
    (folder / "params.yaml").write_text(compose("demo", settings))
    return folder


def start(folder: Path, storage: str = "storage") -> subprocess.Popen:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "DAVSS_STORAGE": storage}
    environment.pop("RAY_ADDRESS", None)
    with open(folder / "log", "w") as log:
        return subprocess.Popen(
            COMMAND, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def finish(folder: Path, storage: str = "storage") -> float:
    """Run the command to its end; seconds that it took."""
    started = time.monotonic()
    process = start(folder, storage)
    assert process.wait(300) == 0, (folder / "log").read_text()[-2000:]
    return time.monotonic() - started


def kill(process: subprocess.Popen) -> None:
    """SIGKILL for the driver, whose processes then end by themselves."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    for each in alive:
        each.kill()


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def tars(folder: Path) -> dict[str, int]:
    """Shards, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("storage/shards/wham/*.tar")}


@pytest.mark.slow
def test_killed_three_times_and_run_again(tmp_path, corpus):
    undisturbed, killed = project(tmp_path / "a", corpus), project(tmp_path / "b", corpus)
    seconds = finish(undisturbed)
    expected = contents(undisturbed / "data")
    rng = random.Random(time.time_ns())
    finished: dict[str, int] = {}
    for moment in sorted(rng.uniform(0.3, 0.9) for _ in range(3)):
        process = start(killed)
        time.sleep(moment * seconds)
        kill(process)
        now = tars(killed)
        assert finished.items() <= now.items(), "a finished shard was written again"
        finished = now
        assert not (killed / "data/shards/wham").exists() or contents(killed / "data") == expected
    finish(killed)
    assert finished.items() <= tars(killed).items()
    assert contents(killed / "data") == expected
    assert contents(killed / "storage") == contents(undisturbed / "storage")
    assert len(tars(killed)) > 5


@pytest.mark.slow
def test_what_was_finished_is_only_looked_up(tmp_path, corpus):
    folder = project(tmp_path / "a", corpus)
    finish(folder)
    before, expected = tars(folder), contents(folder / "data")
    damaged, missing = sorted(folder.glob("storage/shards/wham/train-*.tar"))[:2]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    missing.unlink()
    finish(folder)
    assert contents(folder / "data") == expected
    changed = {name for name, written in tars(folder).items() if before[name] != written}
    assert changed == {damaged.name, missing.name}


@pytest.mark.slow
def test_killed_with_everything_in_a_bucket(tmp_path, corpus, s3):
    url = f"s3://{s3.bucket}"
    raw = open_store(f"{url}/raw/wham_noise")
    for path in corpus.rglob("*.wav"):
        (copy := tmp_path / "copy").write_bytes(path.read_bytes())
        raw.put(copy, path.relative_to(corpus).as_posix())
    local, killed = project(tmp_path / "a", corpus.parent), project(tmp_path / "b", f"{url}/raw")
    seconds = finish(local)
    process = start(killed, f"{url}/davss")
    time.sleep(seconds)  # from a bucket it takes longer
    kill(process)
    assert not (killed / "data").exists()
    finish(killed, f"{url}/davss")
    assert contents(killed / "data") == contents(local / "data")
    names = {entry.name for entry in open_store(f"{url}/davss").list("shards/wham")}
    assert {name for name in names if name.endswith(".tar")} == {
        path.relative_to(local / "storage").as_posix()
        for path in local.glob("storage/shards/wham/*.tar")
    }
