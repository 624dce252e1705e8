"""`cluster.submit` against a real Ray on loopback: shipping, log, exit status, outs, refusals."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from cluster import jobs
from cluster.stages import UPLOAD_LIMIT_MIB, Stage, read_stage, ship
from cluster.submit import RUNTIME_ENV, make_runtime_env
from davss.errors import DavssError
from tests.training.conftest import write_corpus, write_params

ROOT = Path(__file__).parents[2]
WORK = """
import os, sys, time
from pathlib import Path

import helper
from pipelines import run


def main():
    print("hello from", Path.cwd().name, flush=True)
    print("workers", os.environ["DAVSS_NUM_WORKERS"], flush=True)
    if sys.argv[1] == "fail":
        print("no luck", flush=True)
        sys.exit(7)
    if sys.argv[1] == "wait":
        storage = Path(os.environ["DAVSS_STORAGE"])
        with open(storage / "starts", "a") as starts:
            starts.write("once ")
        while not (storage / "go").exists():
            time.sleep(0.1)
    out = Path(sys.argv[2])
    out.mkdir(parents=True)
    (out / "result.txt").write_text(Path("data/manifest.txt").read_text() + helper.WORD)


run(main, reads_params=False)
"""
PACKAGES = {
    "cluster": ["__init__", "collect", "jobs", "stages", "submit"],
    "davss": ["config", "errors"],
    "davss/storage": ["__init__", "cache", "files", "store", "stores"],
    "pipelines": ["__init__", "compose"],
}
DEPS = ["data/manifest.txt"]
STAGES = {
    "good": {"cmd": "python -m work good data/out", "deps": DEPS, "outs": ["data/out"]},
    "bad": {"cmd": "python -m work fail", "outs": ["data/bad"]},
    "separate": {
        "foreach": ["a"],
        "do": {"cmd": "python -m work wait data/a", "deps": DEPS, "outs": ["data/a"]},
    },
    "each": {
        "matrix": {"letter": ["a", "b"]},
        "cmd": "python -m work ${item.letter}",
        "deps": ["/absolute/corpus", "data/none"],
        "outs": ["data/${item.letter}.txt"],
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A small repository with a git-ignored manifest, stages, and the cluster package."""
    root = tmp_path_factory.mktemp("project")
    (root / "data").mkdir()
    (root / "data" / "manifest.txt").write_text("listed ")
    (root / "work.py").write_text(WORK)
    (root / "helper.py").write_text("WORD = 'and helped'\n")
    (root / "secret.txt").write_text("stays here")
    (root / ".gitignore").write_text("/data/\n/secret.txt\n/storage/\n__pycache__/\n")
    (root / ".rayignore").write_text("/.dvc/\n")
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    for package, modules in PACKAGES.items():
        (root / package).mkdir()
        for name in modules:
            shutil.copy(ROOT / package / f"{name}.py", root / package)
    shutil.copy(RUNTIME_ENV, root / "cluster")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables of the cluster and of the submitting machine, which share a storage folder."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": os.environ["RAY_worker_niceness"],  # noqa: SIM112
        "WANDB_MODE": "disabled",
        "DAVSS_STORAGE": str(tmp_path_factory.mktemp("storage")),
        "DAVSS_NUM_WORKERS": "3",
    }


@pytest.fixture(scope="module")
def address(environment):
    """A Ray cluster of one node on free ports of loopback; it ends with its own processes."""
    if " " in sys.executable:
        pytest.skip(f"{sys.executable}: `ray start --head` dies of the space in this path")
    folder = tempfile.mkdtemp(prefix="ray-")  # short: the paths of its sockets must be
    ports = free_ports(5)
    options = ["port", "dashboard-port", "ray-client-server-port"]
    options += ["dashboard-agent-listen-port", "metrics-export-port"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--{option}={port}" for option, port in zip(options, ports, strict=True)]
    command += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--object-store-memory=100000000"]
    command += ["--include-dashboard=true", "--disable-usage-stats", f"--temp-dir={folder}"]
    with open(f"{folder}/log", "w") as log:
        variables = {k: v for k, v in environment.items() if not k.startswith("DAVSS_")}
        head = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{ports[1]}"
        wait_for(lambda: answers(url), head, f"{folder}/log")
        yield url
    finally:
        processes = (
            [*psutil.Process(head.pid).children(recursive=True)] if head.poll() is None else []
        )
        head.terminate()
        _, left = psutil.wait_procs(processes, timeout=10)
        for process in left:
            process.kill()
        head.wait(timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(url):
    try:
        return requests.get(f"{url}/api/jobs/", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def wait_for(condition, process, log=None, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert not process or process.poll() is None, (
            Path(log).read_text() if log else "ended early"
        )
        assert time.monotonic() < end, Path(log).read_text() if log else "too late"
        time.sleep(0.2)


def submit(project, environment, *arguments):
    command = [sys.executable, "-m", "cluster.submit", *arguments]
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_jobs_run_until_one_fails(project, environment, address):
    """Log and outs come back, a finished stage is recorded, a failing one ends it."""
    process = submit(project, environment, "--address", address, "good", "bad", "separate@a")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 7, out + err
    assert "hello from" in out and "workers 3" in out and "Traceback" not in err
    assert (project / "data" / "out" / "result.txt").read_text() == "listed and helped"
    assert not list(Path(environment["DAVSS_STORAGE"], "jobs").iterdir())
    status = [sys.executable, "-m", "dvc", "status", "good"]
    done = subprocess.run(status, cwd=project, capture_output=True, text=True, check=True)
    assert "up to date" in done.stdout, "the run is recorded in dvc.lock"

    assert "no luck" in out and "failed" in out
    assert not (project / "data" / "bad").exists() and "separate@a: job" not in out


@pytest.fixture
def training(tmp_path, monkeypatch):
    """A repository with the whole code, whose stage is the real training of a tiny prior."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, total_samples=8)
    write_corpus("wham", False, monkeypatch)
    for package in ("davss", "pipelines", "cluster"):
        ignored = shutil.ignore_patterns("demo_data", "small-*", "__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    stage = {"cmd": "python -m pipelines.train_prior wham", "deps": ["data/shards/wham"]}
    stage["outs"] = ["data/priors/wham", "data/training/wham"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    (tmp_path / ".gitignore").write_text("/data/\n/storage/\n/raw/\n")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    return tmp_path


def test_training_on_a_node_of_two_cores(training, environment, address):
    """Its workers ask for every core of the cluster: the driver must leave them."""
    environment = {**environment, "DAVSS_STORAGE": str(training / "storage")}
    del environment["DAVSS_NUM_WORKERS"]
    process = submit(training, environment, "--address", address, "--no-commit", "train")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert "wham starts on 2 CPU worker(s) with 1 thread(s) each" in out
    assert (training / "data/priors/wham/weights.safetensors").is_file()


@pytest.mark.slow
def test_dvc_repro_joins_a_job_and_fetches_what_has_ended(project, environment, address, tmp_path):
    """Of four clients the first is interrupted, the second killed, the third comes after the end;
    one job does the work once. The last runs without a cluster, to the same dvc.lock.
    """
    storage = Path(environment["DAVSS_STORAGE"])
    there = {**environment, "DAVSS_CLUSTER": address}
    repro = [sys.executable, "-m", "dvc", "repro", "-s", "separate@a"]

    process = submit(project, there, "--no-commit", "separate@a")
    wait_for((storage / "starts").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "runs on" in out, out + err

    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            repro, cwd=project, env=there, stdout=log, stderr=log, start_new_session=True
        )
    wait_for(lambda: "joins running job" in (tmp_path / "log").read_text(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (storage / "go").touch()
    wait_for(lambda: list(storage.glob("jobs/separate-a-*.tar")), None)

    done = subprocess.run(repro, cwd=project, env=there, capture_output=True, text=True)
    assert done.returncode == 0 and "its outs are fetched" in done.stdout, done.stdout + done.stderr
    assert (project / "data/a/result.txt").read_text() == "listed and helped"
    assert (storage / "starts").read_text() == "once " and not list((storage / "jobs").iterdir())

    lock = (project / "dvc.lock").read_text()
    assert "separate@a" in lock
    subprocess.run([*repro, "-f"], cwd=project, env=environment, check=True, capture_output=True)
    assert (project / "dvc.lock").read_text() == lock
    assert (storage / "starts").read_text() == "once once "


class Other(BaseHTTPRequestHandler):
    """A cluster of another version; with a token, one that knows no other."""

    token = False

    def do_GET(self):
        body = b'{"version": "4", "ray_version": "2.1.0"}'
        self.send_response(401 if self.token else 200)
        self.end_headers()
        self.wfile.write(b"Unauthorized: Missing authentication token" if self.token else body)

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("what", ["version", "token", "silent"])
def test_a_cluster_that_is_of_no_use_is_one_line(what, monkeypatch):
    monkeypatch.setattr(jobs, "KNOCK", 0.3)
    monkeypatch.setattr(Other, "token", what == "token")
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Other) as server,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listener = silent if what == "silent" else server.socket
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        said = {
            "version": "runs Ray 2.1.0, here is",
            "token": "wants a token",
            "silent": "timed out",
        }
        with pytest.raises(DavssError, match=f"^{url}: .*{said[what]}"):
            jobs.connect(url)
        server.shutdown()


def test_no_cluster_is_one_clear_line(project, environment):
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    process = submit(project, environment, "--address", url, "good")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith(f"error: {url}: no Ray cluster answers")
    assert "Traceback" not in err


@pytest.mark.parametrize("address", [None, "ray://head:10001", "head:8265"])
def test_an_address_must_be_http(address, monkeypatch):
    for name in ("RAY_ADDRESS", jobs.ADDRESS, jobs.CLUSTER):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DavssError, match="http://HEAD:8265"):
        jobs.connect(address)


def test_stages_are_read_as_dvc_resolves_them(project):
    stage = read_stage(project, "each@b")
    assert stage == Stage(
        name="each@b",
        cmd="python -m work b",
        deps=("data/none",),
        external=("/absolute/corpus",),
        outs=("data/b.txt",),
    )
    for name in ("none", "each", "each@c"):
        with pytest.raises(DavssError, match="no stage"):
            read_stage(project, name)


def test_a_home_that_may_not_be_read_is_one_line(project, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "/home/x/.config/dvc/config")

    monkeypatch.setattr("dvc.repo.Repo.__init__", refused)
    with pytest.raises(DavssError, match="^/home/x/.config/dvc/config: Permission.* set HOME"):
        read_stage(project, "good")


def test_shipping_takes_the_deps_that_git_ignores_and_nothing_else(project, tmp_path):
    ship(read_stage(project, "good"), project, tmp_path)
    shipped = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"data/manifest.txt", "work.py", "params.yaml", "davss/errors.py"} <= shipped
    assert not {name for name in shipped if "secret" in name or name.endswith(".gitignore")}


def test_shipping_refuses_missing_and_large_deps(project, tmp_path, monkeypatch):
    with pytest.raises(DavssError, match="data/none: missing"):
        ship(read_stage(project, "each@a"), project, tmp_path)
    monkeypatch.setattr("cluster.stages.UPLOAD_LIMIT_MIB", 1e-6)
    with pytest.raises(DavssError, match="of them data/manifest.txt"):
        ship(read_stage(project, "good"), project, tmp_path)
    assert UPLOAD_LIMIT_MIB == 512 and not list(tmp_path.iterdir())


def test_the_runtime_environment_passes_no_keys(tmp_path):
    given = {"WANDB_API_KEY": "k", "WANDB_MODE": "offline", "HOME": "/x", "DAVSS_STORAGE": "/here"}
    made = make_runtime_env(RUNTIME_ENV, "folder", "/there", given)
    assert made["working_dir"] == "folder"
    assert made["env_vars"]["DAVSS_STORAGE"] == "/there"
    assert made["env_vars"]["WANDB_MODE"] == "offline"
    assert not {"WANDB_API_KEY", "HOME"} & set(made["env_vars"])
    given |= {"AWS_ENDPOINT_URL": "u", "AWS_SECRET_ACCESS_KEY": "s"}
    made = make_runtime_env(RUNTIME_ENV, "folder", "/there", given)["env_vars"]
    assert made["DAVSS_CLUSTER"] == "", "a job submits no job"
    assert made["AWS_ENDPOINT_URL"] == "u" and "AWS_SECRET_ACCESS_KEY" not in made
    with pytest.raises(DavssError, match="not a runtime environment"):
        make_runtime_env(tmp_path / "none.yaml", "folder", "/there", {})
