"""Ray for the length of a stage: the cluster of RAY_ADDRESS or a small one here, and its room."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from davss.errors import DavssError

KNOCK = 3.0  # seconds that a machine gets to take a connection
PATIENCE = 10.0  # … and a cluster to answer, a Python's start included
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set, by this odd name, for the drivers of jobs
ROOM_PATIENCE = 20.0  # seconds after which a wait for room is said
# A socket's path may have 107 bytes; Ray adds /ray/session_DATE_TIME_PID/sockets/plasma_store.
LONGEST_TMPDIR = 36

Amounts = Mapping[str, float]  # as Ray has them: {"CPU": 2, "GPU": 1}


@contextmanager
def ray_running(num_cpus: int) -> Iterator[None]:
    """Ray while the block runs: the one at work, that of RAY_ADDRESS, or a small local one.

    Raises DavssError where no cluster answers at RAY_ADDRESS.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = cluster_address()
    with _short_temporary_folder():
        try:
            _join(address) if address else _start(num_cpus)
        except Exception as error:  # Ray raises bare ones too
            line = f"({' '.join(str(error).split())[:300]})"
            if address is None:
                mend = "correct that"
                if isinstance(error, OSError) and error.filename:
                    mend = f"set {_folder_variable()} to a folder that can be written to"
                elif "timed out" in line.lower():
                    mend = "end what else runs here, give it more memory or a loopback network"
                raise DavssError(
                    f"Ray does not start on this machine {line}; {mend}, and run it again (its "
                    f"logs: {_logs()})"
                ) from None
            raise DavssError(
                f"RAY_ADDRESS={address}: no Ray cluster answers there {line}; correct the address, "
                "or unset RAY_ADDRESS to compute on this machine"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()


def cluster_address() -> str | None:
    """What RAY_ADDRESS names; None where it names none, or a local one of the stage's own."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address in ("", "local") else address


def _folder_variable() -> str:
    """What names the folder of Ray's files and sockets."""
    return "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"


def _logs() -> Path:
    folder = os.environ.get(_folder_variable()) or "/tmp"
    return Path(folder) / "ray" / "session_latest" / "logs"


def _start(num_cpus: int) -> None:
    import ray

    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if not given and os.environ.get("RAY_AUTH_MODE", "token") == "token":
        # Ray would keep a token of its own in the home folder, which may not exist.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Ray starts the workers of actors with settings of their own, as Ray Train's, through a shell.
    python = shlex.quote(sys.executable)
    ray.init(
        address="local",
        runtime_env=None if python == sys.executable else {"py_executable": python},
        num_cpus=num_cpus,
        object_store_memory=100_000_000 * max(2, num_cpus),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )


def _join(address: str) -> None:
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    if "://" in address:
        raise ValueError("stages join a cluster by HEAD:6379; `cluster.submit` takes http://")
    found = canonicalize_bootstrap_address(address) or address
    host, _, port = found.rpartition(":")
    if port.isdecimal() and int(port) < 1 << 16:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK):
            pass
    if JOB not in os.environ:  # a job's driver was started by the cluster itself
        _knock(found)
    ray.init(logging_level=logging.ERROR, log_to_driver=False)


def _knock(found: str) -> None:
    """Raise ConnectionError where no cluster answers within PATIENCE."""
    # In a process of its own, which can be ended: Ray's own attempts take a quarter of an hour.
    code = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
    try:
        subprocess.run(
            [sys.executable, "-c", code, found],
            capture_output=True,
            timeout=PATIENCE,
            check=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"silent for {PATIENCE:g} s") from None
    except subprocess.CalledProcessError as error:
        raise ConnectionError((error.stderr.splitlines() or ["refused"])[-1]) from None


@contextmanager
def _short_temporary_folder() -> Iterator[None]:
    """$RAY_TMPDIR or $TMPDIR by another name while the block runs, where its own is too long for
    sockets.
    """
    if not os.environ.get("RAY_TMPDIR"):
        os.environ.pop("RAY_TMPDIR", None)  # with an empty one Ray waits for itself for ever
    variable = _folder_variable()
    given = os.environ.get(variable)
    folder = tempfile.gettempdir() if variable == "TMPDIR" or given is None else given
    if len(os.fsencode(folder)) <= LONGEST_TMPDIR:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="davss-", dir="/tmp") as short:
        link = Path(short) / "tmp"
        link.symlink_to(folder)
        os.environ[variable] = str(link)
        tempfile.tempdir = None  # it reads $TMPDIR again
        try:
            yield
        finally:
            tempfile.tempdir = None
            os.environ.pop(variable) if given is None else os.environ.update({variable: given})


def nodes() -> list[Amounts]:
    """What each node of the running Ray has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room(nodes: Sequence[Amounts], asked: Amounts) -> int:
    """How many times the nodes have what is `asked`, each whole on one node."""
    wanted = {name: amount for name, amount in asked.items() if amount}
    return sum(
        min(int(node.get(name, 0) / amount) for name, amount in wanted.items()) for node in nodes
    )


def wait_for_room(what: str, asked: Amounts, count: int) -> None:
    """Wait until the running Ray can place `count` times what is `asked`; a line says so when that
    takes long. Raises DavssError, with what is asked and what is there, where it never can.
    """
    from ray.util import placement_group, remove_placement_group

    group = placement_group([dict(asked)] * count)
    try:
        if group.wait(ROOM_PATIENCE):
            return
        there = nodes()
        line = f"{what} asks for {count} × {_words(asked)}; {_described(there)}"
        if room(there, asked) < count:
            raise DavssError(f"{line}; start more nodes, or ask for less (docs/cluster.md)")
        print(f"{line}, in use by others: waiting", file=sys.stderr, flush=True)
        while not group.wait(60):
            pass
    finally:
        remove_placement_group(group)


def _described(nodes: Sequence[Amounts]) -> str:
    each = [_words({name: node.get(name, 0) for name in ("CPU", "GPU")}) for node in nodes]
    return f"Ray has {len(nodes)} node(s): {', '.join(each)}"


def _words(resources: Amounts) -> str:
    return (
        " + ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount) or "0 CPU"
    )
