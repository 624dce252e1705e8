"""W&B tracking: offline by default, quiet when disabled, and never in the way."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from davss.errors import DavssError
from davss.training import tracking
from davss.training.tracking import Tracker, TrackingConfig


def test_mode_from_the_environment(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nowhere = {"NETRC": str(tmp_path / "none"), "WANDB_CONFIG_DIR": str(tmp_path)}
    with caplog.at_level(logging.WARNING):
        assert tracking.choose_mode(nowhere) == "offline"
    assert len(caplog.records) == 1 and "no key for api.wandb.ai" in caplog.text
    assert tracking.choose_mode({**nowhere, "WANDB_API_KEY": "x"}) == "online"
    assert tracking.choose_mode({**nowhere, "WANDB_MODE": "disabled"}) == "disabled"
    assert tracking.choose_mode({"WANDB_API_KEY": "x", "WANDB_MODE": "dryrun"}) == "offline"
    with pytest.raises(DavssError, match="^WANDB_MODE=abacus: give online"):
        tracking.choose_mode({"WANDB_MODE": "abacus"})


def test_a_key_counts_for_its_server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = tmp_path / "netrc"
    keys.write_text("machine wandb.example.org login user password secret\n")
    found = {"NETRC": str(keys), "WANDB_CONFIG_DIR": str(tmp_path)}
    assert tracking.choose_mode(found) == "offline"
    own = {"WANDB_BASE_URL": "https://wandb.example.org:8080/api"}
    assert tracking.choose_mode(found | own) == "online"
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n")
    assert tracking.choose_mode(found) == "online"  # as `wandb login --host` leaves it


@pytest.mark.parametrize(("mode", "rank"), [("offline", 1), ("disabled", 0)])
def test_only_rank_0_tracks(tmp_path, mode, rank):
    tracker = Tracker(TrackingConfig("abc", "speech-abc", mode), tmp_path, rank)
    tracker.log(1, {"train/loss": 1.0})
    tracker.finish()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_key(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def test_offline_run_with_audio_and_prior(tmp_path, no_key, caplog):
    config = TrackingConfig("abc123", "speech-abc123", "offline", {"git_revision": "none"})
    tracker = Tracker(config, tmp_path)
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


def test_errors_are_one_warning(tmp_path, caplog, monkeypatch):
    class Broken:
        def log(self, row):
            raise ConnectionError("server gone")

    monkeypatch.setattr(tracking, "_open_run", lambda config, folder: Broken())
    tracker = Tracker(TrackingConfig("abc", "speech-abc", "offline"), tmp_path)
    with caplog.at_level(logging.WARNING):
        tracker.log(1, {"train/loss": 1.0})
        tracker.log(2, {"train/loss": 1.0})
        tracker.finish()
    assert len(caplog.records) == 1 and "server gone" in caplog.text


def test_no_wandb_is_no_obstacle(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(TrackingConfig("abc", "speech-abc", "online"), tmp_path)
        tracker.log(1, {"train/loss": 1.0})
        tracker.finish()
    assert "W&B does not start" in caplog.text


RUN = """
import logging, sys, time
from pathlib import Path
from davss.training import tracking
logging.basicConfig(format="%(message)s")
config = tracking.TrackingConfig("abc", "speech-abc", "online")
tracking.INIT_TIMEOUT, tracking.FINISH_TIMEOUT = 5.0, 3.0
tracker = tracking.Tracker(config, Path(sys.argv[1]))
began = time.monotonic()
for seen in range(300):
    tracker.log(seen, {"train/loss": 1.0})
print(time.monotonic() - began)
began = time.monotonic()
tracker.finish()
print(time.monotonic() - began)
"""


def track(folder: Path, port: int) -> tuple[float, float, str]:
    """Seconds that 300 steps and the end of a run took, and what it said."""
    environment = {
        **{k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "WANDB_MODE": "online",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
    }
    command = [sys.executable, "-c", RUN, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    steps, end = map(float, done.stdout.split())
    return steps, end, done.stderr


def by_a_silent_server(folder: Path) -> tuple[float, float, str]:
    """What `track` finds of one that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        return track(folder, silent.getsockname()[1])


class Server(BaseHTTPRequestHandler):
    """A W&B server on which run `abc` was deleted, and that hangs once another has started."""

    protocol_version = "HTTP/1.1"
    hangs, ended, started = False, threading.Event(), []

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if Server.hangs:
            Server.ended.wait()
            return
        request = json.loads(body)
        name = (re.search(r"(?:query|mutation)\s+(\w+)", request["query"]) or ["", ""])[1]
        if name != "UpsertBucket":
            self.answer(200, {"data": {"model": None} if name == "RunResumeStatus" else {}})
        elif (run := request["variables"]["name"]) == "abc":
            error = f"run {run} was previously created and deleted; try a new run name"
            self.answer(409, {"errors": [{"message": error}]})
        else:
            Server.started.append(run)
            Server.hangs = True
            project = {"id": "p", "name": "davss", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": run, "displayName": run, "project": project}
            self.answer(200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def by_one_that_hangs(folder: Path) -> tuple[float, float, str]:
    """The same of a `Server`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = track(folder, server.server_port)
        Server.ended.set()
        server.shutdown()
    return found


def test_servers_that_do_not_answer_cost_no_step_and_runs_are_kept(tmp_path):
    """Both at once: W&B waits most of the time."""
    with ThreadPoolExecutor() as pool:
        silent = pool.submit(by_a_silent_server, tmp_path / "silent")
        hanging = pool.submit(by_one_that_hangs, tmp_path / "hanging")
    steps, _, said = silent.result()
    assert steps / 300 < 0.05
    assert f"wandb sync {tmp_path}/silent/wandb/offline-run-*" in said, said
    assert list(tmp_path.glob("silent/wandb/offline-run-*-abc/*.wandb"))
    steps, end, said = hanging.result()
    assert Server.started == ["abc-2"] and "run abc was deleted on the server" in said
    assert steps / 300 < 0.05 and 2 < end < 20, (steps, end)


def test_spectrograms():
    picture = tracking.spectrograms({"a": torch.randn(4000), "b": torch.zeros(4000)})
    assert picture.shape == (2 * 257 + 4, 32, 3) and picture.dtype == "uint8"


def test_git_revision(tmp_path):
    assert tracking.git_revision(tmp_path) == "unknown"


def test_the_revision_of_a_repository_of_somebody_else(tmp_path, monkeypatch):
    """As one that a container mounts, whose owner its user is not."""
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    ours = tracking.git_revision(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert subprocess.run(["git", "-C", tmp_path, "log"], capture_output=True).returncode
    assert tracking.git_revision(tmp_path) == ours != "unknown"
