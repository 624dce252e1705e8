"""Run heavy stages on a Ray cluster over its Jobs API, and bring their outs back.

    python -m cluster.submit [--address http://HEAD:8265] STAGE [STAGE …]

STAGE is a name of `dvc stage list`, e.g. train_speech or separate@wham-dns. Its command, code,
params and deps are shipped; bulk data stay in $DAVSS_STORAGE, a bucket or a folder shared by this
machine and the cluster. The log is streamed, the exit status is the job's. A job is named by the
digest of what decides its outs: the same command joins one that runs and fetches the outs of one
that has ended. A finished stage is recorded in dvc.lock, so that `dvc repro` goes on from there.
With $DAVSS_CLUSTER set `dvc repro` itself runs heavy stages so: see docs/cluster.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from cluster import jobs
from cluster.collect import collected
from cluster.stages import Stage, commit, digest, read_stage, ship
from davss.errors import DavssError
from davss.storage import VARIABLE, Store, open_storage, publish
from pipelines import CLUSTER, run

RUNTIME_ENV = Path(__file__).parent / "runtime_env.yaml"
# What a stage takes from the environment here and there. No keys: a job's settings are public.
PASSED_ON = (
    *("DAVSS_NUM_WORKERS", "DAVSS_NUM_ACTORS", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"),
    *("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_MAX_ATTEMPTS", "DAVSS_CACHE_GB"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Submit the stages one after another; the first failure ends it with the job's status."""
    args = parse_arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    client = jobs.connect(args.address)
    for name in args.stages:
        status = submit(client, read_stage(Path.cwd(), name), args)
        if status:
            sys.exit(status)
        if not args.no_commit:
            commit(Path.cwd(), name)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="cluster.submit", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("stages", nargs="+", metavar="STAGE", help="as `dvc stage list` names it")
    parser.add_argument(
        "--address",
        help="http address of the cluster's dashboard (default: $DAVSS_CLUSTER)",
    )
    parser.add_argument(
        "--cluster-storage", help=f"${VARIABLE} as the cluster sees it (default: the path here)"
    )
    parser.add_argument(
        "--runtime-env", type=Path, default=RUNTIME_ENV, help="base runtime environment (YAML)"
    )
    parser.add_argument(
        "--entrypoint-cpus",
        type=float,
        default=0,
        help="CPUs that the stage's driver reserves, and takes from its workers (default: 0)",
    )
    parser.add_argument(
        "--entrypoint-resources",
        type=json.loads,
        metavar="JSON",
        help="custom resources of the driver, e.g. '{\"gpu_node\": 0.001}' to run it beside GPUs",
    )
    parser.add_argument("--no-commit", action="store_true", help="leave dvc.lock as it is")
    return parser.parse_args(argv)


def submit(client: jobs.Client, stage: Stage, args: argparse.Namespace) -> int:
    """Run one stage on the cluster and publish its outs here; returns the job's exit status."""
    store = open_storage()
    there = args.cluster_storage or store.locate("").rstrip("/")
    job = f"{stage.name.replace('@', '-')}-{digest(Path.cwd(), stage.name, there)[:12]}"
    state = jobs.state(client, job)
    runs = state is not None and not state.is_terminal()
    if not runs and store.stat(collected(job)):
        print(f"{stage.name}: job {job} has ended; its outs are fetched", flush=True)
        fetch(store, job, stage.outs)
        return 0
    if not runs:
        with TemporaryDirectory(prefix="davss-job-") as folder:
            ship(stage, Path.cwd(), Path(folder))
            jobs.start(
                client,
                job,
                entrypoint=f"{stage.cmd} && python -m cluster.collect {job} "
                + shlex.join(stage.outs),
                runtime_env=make_runtime_env(args.runtime_env, folder, there, os.environ),
                entrypoint_num_cpus=args.entrypoint_cpus,
                entrypoint_resources=args.entrypoint_resources,
            )
    how = "joins running job" if runs else "job"
    print(f"{stage.name}: {how} {job} at {client.get_address()}", flush=True)
    status = jobs.wait(client, job)
    if status == 0:
        fetch(store, job, stage.outs)
    return status


def make_runtime_env(
    path: Path, working_dir: str, storage: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Runtime environment of a job: the file `path`, the shipped folder, and the variables."""
    try:
        base = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise DavssError(
            f"{path}: not a runtime environment ({str(error).splitlines()[0]})"
        ) from None
    passed = {name: environment[name] for name in PASSED_ON if name in environment}
    variables = {**base.get("env_vars", {}), **passed, VARIABLE: storage, CLUSTER: ""}
    return {**base, "working_dir": working_dir, "env_vars": variables}


def fetch(store: Store, job: str, outs: Sequence[str]) -> None:
    """Move what the job put into the storage to where the stage writes."""
    name = collected(job)
    with TemporaryDirectory(prefix="davss-job-") as folder:
        archive, unpacked = Path(folder, "outs.tar"), Path(folder, "outs")
        if store.stat(name) is None:
            raise DavssError(
                f"{store.locate(name)}: the job succeeded but its outs are not here. Unless "
                f"another run has fetched them, ${VARIABLE} is not shared with the cluster "
                "(--cluster-storage when it is mounted elsewhere there); run it again"
            )
        store.fetch(name, archive)
        with tarfile.open(archive) as stream:
            stream.extractall(unpacked, filter="data")
        for out in outs:
            with publish(Path(out)) as temporary:
                shutil.move(unpacked / out, temporary)
    store.remove(name)


if __name__ == "__main__":
    run(main)
