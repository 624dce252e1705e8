"""A rehearsal of the whole workflow on a cluster that fails: python -m tests.cluster.rehearsal

On this machine: a bucket (SeaweedFS), a head without work and two worker nodes, each a Ray process
with a TMPDIR of its own, a token, and a clone of the committed code in which `dvc repro` drives
them. Meanwhile a client, nodes, the bucket's server and a driver are killed. Another clone makes
the same without a cluster; scores and priors of both are compared, and what each fault cost is
printed as the table of docs/cluster.md. Needs two cores, 8 GB and a quarter of an hour.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas
import psutil
import requests

from tests import s3_server
from tests.cluster.test_submit import free_ports

ROOT = Path(__file__).parents[2]
TARGET = "score@wham-wham"
TRAINING = ("total_samples=96", "checkpoint_every=16", "validate_every=48", "validation_clips=4")
OVERRIDES = (
    *("demo.clips_per_speaker=6", "demo.test_clips_per_speaker=3", "mixtures.num_speakers=[1]"),
    *("demo.dev_speeds=[1.0]", "demo.test_speakers=[ru_f]", "demo.dns_scenes=[waves]"),
    *("conditions=[wham]", "noise_models=[wham]", "sampler.num_steps=6", "sampler.num_samples=1"),
    *("separation.batch_size=1", "mixtures.per_num_speakers=6"),
    *(f"{kind}_prior.training.{each}" for kind in ("speech", "noise") for each in TRAINING),
    *(f"{kind}_prior.training.separate_every=0" for kind in ("speech", "noise")),
    *(f"{kind}_prior.network.nf=8" for kind in ("speech", "noise")),
)


class Cluster:
    """Processes of a head, its nodes and a bucket; all end with `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes = folder, {}
        self.bucket, port = s3_server.start(folder / "s3")
        s3_server.client(port).create_bucket(Bucket="davss")
        self.gcs, self.dashboard, agent, client = free_ports(4)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
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
            *(f"--dashboard-port={self.dashboard}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--ray-client-server-port={client}", f"--temp-dir={folder}/ray"),
        )
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        until(lambda: answers(f"{self.url}/api/jobs/", headers))
        for name in ("one", "two"):
            self.worker(name)
            until(lambda name=name: "runtime started" in (folder / f"{name}.log").read_text())

    def node(self, name: str, *options: str) -> None:
        """Start a node that knows nothing of the others but the head's address."""
        (self.folder / name).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        command += ["--disable-usage-stats", "--object-store-memory=100000000"]
        command += ["--node-ip-address=127.0.0.1"]
        with open(self.folder / f"{name}.log", "a") as log:
            self.nodes[name] = subprocess.Popen(
                command,
                env=self.environment | {"TMPDIR": str(self.folder / name)},
                cwd=self.folder / name,
                stdout=log,
                stderr=log,
            )

    def worker(self, name: str) -> None:
        """Start a node of one CPU."""
        self.node(name, f"--address=127.0.0.1:{self.gcs}", "--num-cpus=1")

    def kill(self, name: str) -> None:
        """What a spot node does: it is gone, with all that it wrote."""
        end(self.nodes.pop(name))
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def restart_bucket(self) -> None:
        """The server of the bucket dies and comes back on its port 15 s later."""
        end(self.bucket)
        time.sleep(15)
        with open(self.folder / "s3" / "log", "a") as log:
            self.bucket = subprocess.Popen(self.bucket.args, stdout=log, stderr=log)

    def kill_driver(self, module: str) -> None:
        """Kill the driver of the job that runs `module`."""
        for process in psutil.Process(self.nodes["head"].pid).children(recursive=True):
            if process.is_running() and process.cmdline()[1:3] == ["-m", module]:
                process.kill()

    def close(self) -> None:
        """End all."""
        for process in (*reversed(self.nodes.values()), self.bucket):
            end(process)


def end(process: subprocess.Popen) -> None:
    """Kill a process with all that it started."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    for each in family:
        if each.is_running():
            each.kill()
    process.wait()


def answers(url: str, headers: dict[str, str]) -> bool:
    """Whether a server takes this request."""
    try:
        return requests.get(url, headers=headers, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def until(condition: Callable[[], object], seconds: float = 300) -> None:
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

    def says(self, text: str) -> None:
        """Wait until it has said `text`."""
        until(lambda: text in self.text() or self.process.poll() is not None)
        assert text in self.text(), self.text()[-3000:]

    def ends(self) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait(1200)


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


def rehearse(cluster: Cluster, root: Path, environment: dict[str, str], log: Path) -> list[str]:
    """The run on the cluster, and its faults; returns rows of the table."""
    rows, began = ["| fault | after it | seconds |", "|---|---|---|"], time.monotonic()

    def row(fault: str, what: str, since: float) -> None:
        rows.append(f"| {fault} | {what} | {time.monotonic() - since:.0f} |")
        print(rows[-1], flush=True)

    client = Client(root, environment, log)
    client.says("shards@voxceleb2: job")
    os.killpg(client.process.pid, signal.SIGKILL)
    client.process.wait()  # DVC takes a zombie for a client that is at work
    since = time.monotonic()
    client = Client(root, environment, log)
    client.says("shards@voxceleb2: ")
    joined = "joined" if "joins running" in client.text() else "its outs fetched"
    row("client killed −9 in `shards`, run again", f"same job, {joined}", since)

    client.says("speech 32/96")
    cluster.kill("two")
    since = time.monotonic()
    cluster.worker("two")
    client.says("speech goes on from")
    again = client.text().partition("speech goes on from ")[2].split()[0]
    row("worker node killed in `train_speech`, a new one comes", f"on from sample {again}", since)

    client.says("wham 16/96")
    since = time.monotonic()
    cluster.restart_bucket()
    client.says("wham 96/96")
    row("the bucket's server away for 15 s in `train_noise`", "requests repeated", since)

    client.says("separate@wham-wham: job")
    estimates = s3_server.client(int(environment["AWS_ENDPOINT_URL"].rpartition(":")[2]))

    def finished() -> int:
        found = estimates.list_objects_v2(Bucket="davss", Prefix="run/estimates/")
        return sum(each["Key"].endswith(".json") for each in found.get("Contents", ()))

    until(lambda: finished() >= 1)
    cluster.kill("one")
    since, done = time.monotonic(), finished()
    cluster.worker("one")
    until(lambda: finished() > done or client.process.poll() is not None)
    row("worker node killed in `separate`, a new one comes", f"{done} of 6 kept", since)

    since, done = time.monotonic(), finished()
    cluster.kill_driver("pipelines.separate")
    failed = client.ends()
    client = Client(root, environment, log)
    assert client.ends() == 0, client.text()[-3000:]
    row(f"driver killed in `separate` (status {failed}), run again", f"{done} of 6 kept", since)
    print(f"run on the cluster: {time.monotonic() - began:.0f} s")
    return rows


def compare(local: Path, far: Path) -> None:
    """Say how far the two runs' scores differ, and which outs are the same bytes."""
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
