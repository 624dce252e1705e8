"""A rehearsal of the whole workflow on a cluster that fails: python -m tests.cluster.rehearsal

On this machine: a bucket (SeaweedFS), a head without work and two worker nodes, each a Ray process
with a TMPDIR of its own, a token, and a clone of the committed code in which `dvc repro` drives
them. Meanwhile a client, nodes, the bucket's server and a driver are killed. Another clone makes
the same without a cluster; scores and priors of both are compared, and what each fault cost is
printed as the table of docs/cluster.md. Needs two cores, 8 GB and a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import requests
from botocore.exceptions import BotoCoreError, ClientError

from tests import s3_server

ROOT = Path(__file__).parents[2]
TARGET = "score@wham-wham"
EVERY = 16  # samples between checkpoints
TRAINING = ("total_samples=160", f"checkpoint_every={EVERY}", "validate_every=80")
TRAINING += ("validation_clips=4", "separate_every=0")
OVERRIDES = (
    *("demo.clips_per_speaker=6", "demo.test_clips_per_speaker=3", "mixtures.num_speakers=[1]"),
    *("demo.dev_speeds=[1.0]", "demo.test_speakers=[ru_f]", "demo.dns_scenes=[waves]"),
    *("conditions=[wham]", "noise_models=[wham]", "sampler.num_steps=60", "sampler.num_samples=1"),
    *("separation.batch_size=1", "mixtures.per_num_speakers=6"),
    *(f"{kind}_prior.training.{each}" for kind in ("speech", "noise") for each in TRAINING),
    *(f"{kind}_prior.network.nf=8" for kind in ("speech", "noise")),
)

AGENTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
# Ray gives a node 30 s to start and the node its agents 15 s to say their ports: too little on a
# busy machine. The ports are known.
START = """
import time
from pathlib import Path
from ray._private import services
from ray.scripts.scripts import cli
known, start = services.get_node, services.start_raylet
def get_node(*which):
    for _ in range(600):
        try:
            return known(*which)
        except RuntimeError:
            time.sleep(0.5)
def start_raylet(*given, **named):
    node, session = given[2], given[11]
    for agent in ("metrics_agent", "metrics_export", "dashboard_agent_listen", "runtime_env_agent"):
        Path(session, f"{agent}_port_{node}").write_text(str(named[f"{agent}_port"]))
    return start(*given, **named)
services.get_node, services.start_raylet = get_node, start_raylet
cli()
"""


class Cluster:
    """Processes of a head, its nodes and a bucket; all end with `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes = folder, {}
        self.bucket, port = s3_server.start(folder / "s3")
        s3_server.client(port).create_bucket(Bucket="davss")
        self.gcs, self.dashboard, client = (s3_server.free_port() for _ in range(3))
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            # A busy machine is slow to start processes.
            "RAY_worker_register_timeout_seconds": "600",
            "RAY_health_check_timeout_ms": "60000",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
            "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "600",
            "OMP_NUM_THREADS": "1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": s3_server.KEY,
            "AWS_SECRET_ACCESS_KEY": s3_server.SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "WANDB_MODE": "offline",
        }
        self.url = f"http://127.0.0.1:{self.dashboard}"
        self.node(
            *("head", "--head", f"--port={self.gcs}", "--num-cpus=0", "--include-dashboard=true"),
            *(f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={client}"),
        )
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        until(lambda: answers(f"{self.url}/api/jobs/", headers))
        for name in ("one", "two"):
            self.worker(name)

    def node(self, name: str, *options: str) -> None:
        """Start a node that knows nothing of the others but the head's address."""
        command = [sys.executable, "-c", START, "start", "--block", *options]
        command += ["--disable-usage-stats", "--object-store-memory=100000000"]
        command += ["--node-ip-address=127.0.0.1", f"--temp-dir={self.folder / name}"]
        command += [f"--{agent}-port={s3_server.free_port()}" for agent in AGENTS]
        (self.folder / name).mkdir(exist_ok=True)
        log = self.folder / f"{name}.log"
        with open(log, "w") as stream:
            process = self.nodes[name] = subprocess.Popen(
                command,
                env=self.environment | {"TMPDIR": str(self.folder / name)},
                cwd=self.folder / name,
                stdout=stream,
                stderr=stream,
            )
        until(lambda: "runtime started" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()[-3000:]

    def worker(self, name: str) -> None:
        """Start a node of one CPU."""
        self.node(name, f"--address=127.0.0.1:{self.gcs}", "--num-cpus=1")

    def kill(self, name: str) -> None:
        """What a spot node does: it is gone, with all that it wrote."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TMPDIR") == str(self.folder / name):
                    process.kill()
        self.nodes.pop(name).wait()
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def restart_bucket(self) -> None:
        """The server of the bucket dies and comes back on its port 15 s later."""
        self.bucket.kill()
        self.bucket.wait()
        time.sleep(15)
        with open(self.folder / "s3" / "log", "a") as log:
            self.bucket = subprocess.Popen(self.bucket.args, stdout=log, stderr=log)

    def kill_driver(self, module: str) -> None:
        """Kill the driver of the job that runs `module`."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                here = process.environ().get("TMPDIR") == str(self.folder / "head")
                if here and process.cmdline()[1:3] == ["-m", module]:
                    process.kill()

    def close(self) -> None:
        """End all."""
        for name in reversed(list(self.nodes)):
            self.kill(name)
        self.bucket.kill()
        self.bucket.wait()


def answers(url: str, headers: dict[str, str]) -> bool:
    """Whether a server takes this request."""
    try:
        return requests.get(url, headers=headers, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def until(condition: Callable[[], object], seconds: float = 1800) -> None:
    """Wait for something to come true."""
    end_of_patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_of_patience, "too late"
        time.sleep(0.3)


def clone(folder: Path) -> Path:
    """The committed code, with the rehearsal's params."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    command = [sys.executable, "-m", "pipelines.compose", "--profile", "demo", *OVERRIDES]
    subprocess.run(command, cwd=folder, check=True, env=os.environ | {"PYTHONPATH": str(folder)})
    return folder


class Client:
    """`dvc repro` in a clone, with its output in a file."""

    def __init__(self, root: Path, environment: dict[str, str], log: Path) -> None:
        self.log, self.start = log, log.stat().st_size if log.exists() else 0
        environment = environment | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
        with open(log, "a") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dvc", "repro", TARGET],
                cwd=root,
                env=environment,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def text(self) -> str:
        """What it has said."""
        return self.log.read_text()[self.start :]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to come true while it is at work."""
        until(lambda: condition() or self.process.poll() is not None)
        assert condition(), self.text()[-3000:]

    def says(self, text: str) -> None:
        """Wait until it has said `text`."""
        self.until(lambda: text in self.text())

    def ends(self) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait(3600)


def main() -> None:
    """Rehearse, compare, and print the table."""
    folder = Path(tempfile.mkdtemp(prefix="dv-", dir="/tmp"))
    (folder / "s3").mkdir()
    local, far = clone(folder / "local"), clone(folder / "far")
    common = {"DAVSS_NUM_WORKERS": "2", "DAVSS_NUM_ACTORS": "2", "DAVSS_STORAGE": "storage"}
    cluster = Cluster(folder)
    there = cluster.environment | common
    there |= {"DAVSS_STORAGE": "s3://davss/run", "DAVSS_CLUSTER": cluster.url}
    try:
        faults = rehearse(cluster, far, there, folder / "client.log")
    finally:
        cluster.close()
    here = {name: text for name, text in cluster.environment.items() if "RAY_AUTH" not in name}
    began = time.monotonic()
    assert Client(local, here | common, folder / "local.log").ends() == 0
    print(f"local run: {time.monotonic() - began:.0f} s")
    compare(local, far)
    print("\n".join(faults), flush=True)
    shutil.rmtree(folder)


class Bucket:
    """What the run has put into the bucket."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.s3 = s3_server.client(int(environment["AWS_ENDPOINT_URL"].rpartition(":")[2]))

    def files(self, below: str, suffix: str) -> dict[str, str]:
        """When each was written, by name; nothing while the server is away."""
        try:
            found = self.s3.list_objects_v2(Bucket="davss", Prefix=f"run/{below}")
        except (BotoCoreError, ClientError):
            return {}
        names = (each for each in found.get("Contents", ()) if each["Key"].endswith(suffix))
        return {each["Key"]: str(each["LastModified"]) for each in names}

    def samples(self, prior: str) -> int:
        """Those of the newest checkpoint."""
        names = self.files(f"training/{prior}-", ".pt")
        return max((int(re.search(r"-(\d+)-\w+\.pt$", name)[1]) for name in names), default=0)


def rehearse(cluster: Cluster, root: Path, environment: dict[str, str], log: Path) -> list[str]:
    """The run on the cluster, and its faults; returns rows of the table."""
    rows, bucket = ["| fault | what was repeated | seconds |", "|---|---|---|"], Bucket(environment)

    def row(fault: str, repeated: str, since: float) -> None:
        rows.append(f"| {fault} | {repeated} | {time.monotonic() - since:.0f} |")
        print(rows[-1], flush=True)

    client = Client(root, environment, log)
    client.says("train_speech: job")
    os.killpg(client.process.pid, signal.SIGKILL)
    client.process.wait()  # DVC takes a zombie for a client that is at work
    since = time.monotonic()
    client = Client(root, environment, log)
    client.says("train_speech: joins running job")
    row("client of `train_speech` killed −9, run again until it joins the job", "nothing", since)

    client.until(lambda: bucket.samples("speech") >= EVERY)
    seen, since = bucket.samples("speech"), time.monotonic()
    cluster.kill("two")
    cluster.worker("two")
    client.says("speech goes on from")
    again = client.text().partition("speech goes on from ")[2].split()[0]
    assert int(again) >= seen
    repeated = f"samples after {again}, of a checkpoint every {EVERY}"
    row("worker node killed in `train_speech`, until it goes on with a new one", repeated, since)

    client.until(lambda: bucket.samples("speech") > int(again))
    since = time.monotonic()
    cluster.restart_bucket()
    seen, before = bucket.samples("speech"), client.text().count("goes on from")
    client.until(lambda: bucket.samples("speech") > seen)
    repeated = "requests" if client.text().count("goes on from") == before else "samples"
    row("bucket's server killed, back after 15 s, until the next checkpoint", repeated, since)

    def finished() -> dict[str, str]:
        return bucket.files("estimates/", ".json")

    client.until(finished)
    kept, since = finished(), time.monotonic()
    cluster.kill("one")
    cluster.worker("one")
    client.until(lambda: len(finished()) > len(kept) + 1)
    row("worker node killed in `separate`, until another estimate", "those in flight", since)

    kept, since = finished(), time.monotonic()
    cluster.kill_driver("pipelines.separate")
    status, client = client.ends(), Client(root, environment, log)
    assert client.ends() == 0, client.text()[-3000:]
    row(
        f"driver of `separate` killed (status {status}), run again to the end",
        "those in flight",
        since,
    )
    assert finished() | kept == finished(), "what is finished is not made again"
    print(f"{len(kept)} of {len(finished())} estimates were finished before", flush=True)
    return rows


def compare(local: Path, far: Path) -> None:
    """Say how far the two runs' scores differ, and which outs are the same bytes."""
    import pandas

    scores = [pandas.read_parquet(root / "data/scores/wham-wham.parquet") for root in (local, far)]
    assert list(scores[0].key) == list(scores[1].key)
    print("largest difference of SI-SDR:", (scores[0].si_sdr - scores[1].si_sdr).abs().max(), "dB")
    for path in sorted(local.glob("data/*/**/*")):
        if path.is_file() and "demo" not in path.parts:
            name = path.relative_to(local)
            same = (far / name).read_bytes() == path.read_bytes()
            print(name, "the same" if same else "differs")


if __name__ == "__main__":
    main()
