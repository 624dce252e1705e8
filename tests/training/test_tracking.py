"""W&B tracking: offline by default, quiet when disabled, and never in the way."""

import logging
import sys

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


def test_offline_run_with_audio(tmp_path, no_key):
    config = TrackingConfig("abc123", "speech-abc123", "offline", {"git_revision": "none"})
    tracker = tracking.start(config, tmp_path, rank=0)
    assert isinstance(tracker, Tracker)
    tracker.log(16, {"train/loss": 0.5})
    signals = {"clean": torch.randn(4000), "noisy": torch.randn(4000)}
    tracker.log_audio(16, signals, 8000)
    tracker.finish()
    assert list(tmp_path.glob("wandb/offline-run-*-abc123/*.wandb"))


def test_errors_are_one_warning(tmp_path, caplog):
    class Broken:
        def log(self, _):
            raise ConnectionError("server gone")

    tracker = Tracker.__new__(Tracker)
    tracker._run = Broken()
    with caplog.at_level(logging.WARNING):
        tracker.log(1, {"train/loss": 1.0})
        tracker.log(2, {"train/loss": 1.0})
        tracker.finish()
    assert len(caplog.records) == 1 and "server gone" in caplog.text


def test_no_wandb_is_no_obstacle(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = TrackingConfig("abc", "speech-abc", "online")
    assert isinstance(tracking.start(config, tmp_path, rank=0), NullTracker)


def test_spectrograms():
    picture = tracking.spectrograms({"a": torch.randn(4000), "b": torch.zeros(4000)})
    assert picture.shape == (2 * 257 + 4, 32, 3) and picture.dtype == "uint8"


def test_git_revision(tmp_path):
    assert tracking.git_revision(tmp_path) == "unknown"
