"""W&B tracking: offline by default, quiet when disabled, and never in the way."""

import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from davss.training import tracking
from davss.training.tracking import NullTracker, Tracker, TrackingConfig


def test_mode_from_the_environment(tmp_path, caplog):
    nowhere = {"NETRC": str(tmp_path / "none")}
    with caplog.at_level(logging.WARNING):
        assert tracking.choose_mode(nowhere) == "offline"
    assert len(caplog.records) == 1 and "offline" in caplog.text
    assert tracking.choose_mode({**nowhere, "WANDB_API_KEY": "x"}) == "online"
    assert tracking.choose_mode({**nowhere, "WANDB_MODE": "disabled"}) == "disabled"
    assert tracking.choose_mode({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}) == "offline"
    keys = tmp_path / "netrc"
    keys.write_text("machine api.wandb.ai login user password secret\n")
    assert tracking.choose_mode({"NETRC": str(keys)}) == "online"


def test_only_rank_0_tracks(tmp_path):
    offline = TrackingConfig("abc", "speech-abc", "offline")
    assert isinstance(tracking.start(offline, tmp_path, rank=1), NullTracker)
    assert isinstance(tracking.start(TrackingConfig(), tmp_path, rank=0), NullTracker)


@pytest.fixture
def no_key(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def test_offline_run_with_audio_and_prior(tmp_path, no_key, caplog):
    config = TrackingConfig("abc123", "speech-abc123", "offline", {"git_revision": "none"})
    tracker = tracking.start(config, tmp_path, rank=0)
    assert isinstance(tracker, Tracker)
    tracker.log(16, {"train/loss": 0.5})
    signals = {"clean": torch.randn(4000), "noisy": torch.randn(4000)}
    tracker.log_audio(16, signals, 8000)
    prior = tmp_path / "prior"
    prior.mkdir()
    (prior / "config.json").write_text("{}")
    tracker.log_prior("speech", prior, {"git_revision": "none"})
    with caplog.at_level(logging.WARNING):
        tracker.finish()
    assert not caplog.records
    assert list(tmp_path.glob("wandb/offline-run-*-abc123/*.wandb"))


class FakeRun:
    """A W&B run whose every call takes `seconds`, or fails."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None):
        self.seconds, self.error, self.rows = seconds, error, []

    def log(self, row):
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        self.rows.append(row)

    def finish(self):
        time.sleep(self.seconds)


def tracker_of(run: FakeRun, monkeypatch, folder: Path, **limits) -> Tracker:
    monkeypatch.setattr(tracking, "_open_run", lambda config, folder: run)
    return Tracker(TrackingConfig("abc", "speech-abc", "offline"), folder, **limits)


def test_errors_are_one_warning(tmp_path, caplog, monkeypatch):
    tracker = tracker_of(FakeRun(error=ConnectionError("server gone")), monkeypatch, tmp_path)
    with caplog.at_level(logging.WARNING):
        tracker.log(1, {"train/loss": 1.0})
        tracker.log(2, {"train/loss": 1.0})
        tracker.finish()
    assert len(caplog.records) == 1 and "server gone" in caplog.text


def test_all_that_fits_arrives_in_order(tmp_path, monkeypatch):
    run = FakeRun()
    tracker = tracker_of(run, monkeypatch, tmp_path)
    for seen in range(500):
        tracker.log(seen, {"train/loss": 1.0})
    tracker.finish()
    assert [row["train/samples_seen"] for row in run.rows] == list(range(500))


def test_a_slow_server_costs_no_time(tmp_path, caplog, monkeypatch):
    tracker = tracker_of(FakeRun(seconds=5), monkeypatch, tmp_path, queue_size=10, patience=0.2)
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        for seen in range(1000):
            tracker.log(seen, {"train/loss": 1.0})
        assert time.monotonic() - began < 0.5
        tracker.finish()
    assert time.monotonic() - began < 2
    assert tracker.dropped >= 988
    assert ["dropped" in record.message for record in caplog.records] == [True, False]
    assert "given up after 0.2 s" in caplog.text


def test_no_wandb_is_no_obstacle(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING):
        tracker = tracking.start(TrackingConfig("abc", "speech-abc", "online"), tmp_path, rank=0)
        tracker.log(1, {"train/loss": 1.0})
        tracker.finish()
    assert "W&B does not start" in caplog.text


UNREACHABLE = """
import logging, sys, time
from pathlib import Path
from davss.training import tracking
logging.basicConfig(format="%(message)s")
config = tracking.TrackingConfig("abc", "speech-abc", "online")
began = time.monotonic()
tracking.INIT_TIMEOUT = 3.0
tracker = tracking.Tracker(config, Path(sys.argv[1]), patience=60)
for seen in range(100):
    tracker.log(seen, {"train/loss": 1.0})
print(time.monotonic() - began)
tracker.finish()
"""


def test_an_unreachable_server_costs_no_step_and_the_run_is_kept(tmp_path):
    with socket.socket() as closed:  # bound, never listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        environment = {
            **{k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"},
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "WANDB_MODE": "online",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}",
        }
        done = subprocess.run(
            [sys.executable, "-c", UNREACHABLE, str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5
    assert "kept offline" in done.stderr, done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*-abc/*.wandb"))


def test_spectrograms():
    picture = tracking.spectrograms({"a": torch.randn(4000), "b": torch.zeros(4000)})
    assert picture.shape == (2 * 257 + 4, 32, 3) and picture.dtype == "uint8"


def test_git_revision(tmp_path):
    assert tracking.git_revision(tmp_path) == "unknown"
