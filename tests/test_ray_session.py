"""Ray for a stage: clusters that do not answer, room that is not there, homes and long paths."""

import errno
import os
import re
import socket
import subprocess
import sys
import time

import pytest
import ray

from davss import ray_session
from davss.errors import DavssError
from davss.ray_session import ray_running, room


@pytest.fixture
def silent():
    """An address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("", 0))  # Ray takes this machine's address for 127.0.0.1
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:6399", "Connection refused"),
        ("SILENT", "silent for 1 s"),
        ("auto", "Could not find any running Ray instance"),
        ("nonsense", "Invalid address format"),
        ("http://127.0.0.1:8265", "HEAD:6379"),
    ],
)
def test_no_cluster_at_the_address_is_said(address, reason, silent, monkeypatch, tmp_path):
    monkeypatch.setattr(ray_session, "PATIENCE", 1.0)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where other clusters leave no trace
    if address == "auto":
        monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setenv("RAY_ADDRESS", silent if address == "SILENT" else address)
    began = time.monotonic()
    said = f"^RAY_ADDRESS=.*{reason}.*unset RAY_ADDRESS"
    with pytest.raises(DavssError, match=said), ray_running(1):
        pass
    assert time.monotonic() - began < 12 and not ray.is_initialized()


def test_the_driver_of_a_job_asks_not_whether_its_cluster_is_there(silent, monkeypatch):
    """On a busy head the question alone takes longer than the patience for the answer."""
    joined = []
    monkeypatch.setattr(ray_session, "_knock", lambda found: pytest.fail("asked"))
    monkeypatch.setattr(ray, "init", lambda **options: joined.append(options))
    monkeypatch.setenv("RAY_ADDRESS", silent)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with ray_running(1):
        assert joined


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (Exception("The current node timed out during startup."), "end what else runs here"),
        (OSError(errno.EROFS, "Read-only file system", "/tmp/ray"), "set TMPDIR to a folder"),
        (RuntimeError("no home"), "correct that, and run it again"),
    ],
)
def test_a_ray_that_does_not_start_here_is_said(monkeypatch, error, mend):
    def init(**options):
        raise error  # as Ray does

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    reason = re.escape(str(error))
    said = rf"^Ray does not start on this machine \({reason}\); {mend}.*session_latest/logs"
    with pytest.raises(DavssError, match=said), ray_running(1):
        pass


@pytest.mark.parametrize("length", [0, 100])
def test_an_empty_or_long_folder_of_rays_own(monkeypatch, tmp_path, length):
    """With an empty one Ray would wait for itself for ever."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = str(tmp_path / (length * "x")) if length else ""
    monkeypatch.setenv("RAY_TMPDIR", given)
    seen = []
    monkeypatch.setattr(ray, "init", lambda **_: seen.append(os.environ.get("RAY_TMPDIR")))
    with ray_running(1):
        pass
    if length:
        assert len(seen[0]) <= ray_session.LONGEST_TMPDIR
        assert os.environ["RAY_TMPDIR"] == given
    else:
        assert seen == [None]

    def refused(**_):
        raise OSError(errno.ENOTDIR, "Not a directory", f"{given}/ray")

    monkeypatch.setattr(ray, "init", refused)
    named = "RAY_TMPDIR" if length else "TMPDIR"
    with pytest.raises(DavssError, match=f"; set {named} to a folder"), ray_running(1):
        pass


def test_a_token_needs_no_home(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    with ray_running(1):
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    os.environ.pop("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with ray_running(1):
        assert "RAY_AUTH_TOKEN" not in os.environ


HERE = """
import os, tempfile, ray
from davss import DavssError, ray_session
from davss.ray_session import ray_running, wait_for_room
with ray_running(2):
    work = ray.remote(lambda: tempfile.gettempdir())
    print(ray.get(work.options(runtime_env={"env_vars": {"A": "1"}}).remote()))
    ray_session.ROOM_PATIENCE = 1.0
    wait_for_room("speech", {"CPU": 1, "GPU": 0}, 2)
    try:
        wait_for_room("speech", {"CPU": 1, "GPU": 0}, 3)
    except DavssError as error:
        print(error)
print(os.environ.get("TMPDIR"), tempfile.gettempdir())
"""


def test_a_long_tmpdir_no_home_and_a_path_with_a_space(tmp_path):
    """As with `docker --user`: no entry in passwd, no HOME; sockets lie below $TMPDIR. Workers with
    settings of their own, as Ray Train's, find a Python in a path with a space; and what can never
    be placed is said.
    """
    folder = tmp_path / (100 * "x")
    folder.mkdir()
    (tmp_path / "a b").symlink_to(sys.prefix)
    leaves_out = ("HOME", "RAY_ADDRESS", "RAY_AUTH")  # what earlier tests may have set
    environment = {k: v for k, v in os.environ.items() if not k.startswith(leaves_out)}
    command = [str(tmp_path / "a b" / "bin" / "python"), "-c", HERE]
    alone = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
        command = [*alone, *command]
    done = subprocess.run(
        command,
        env=environment | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    within, said, after = done.stdout.splitlines()
    assert said.startswith("speech asks for 3 × 1 CPU; Ray has 1 node(s): 2 CPU; start more")
    assert len(within) <= ray_session.LONGEST_TMPDIR and not os.path.exists(within)
    assert after == f"{folder} {folder}"


def test_room_counts_whole_workers_on_each_node():
    nodes = [{"CPU": 3, "GPU": 1}, {"CPU": 8, "GPU": 2}, {"CPU": 1}]
    assert room(nodes, {"CPU": 2, "GPU": 0}) == 5
    assert room(nodes, {"CPU": 2, "GPU": 1}) == 3
    assert room(nodes, {"CPU": 9}) == 0
