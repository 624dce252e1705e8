"""A job on a Ray cluster over the Jobs API: start it, stream its log, wait, stop it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus
from ray.job_submission import JobSubmissionClient as Client

from davss.errors import DavssError
from pipelines import CLUSTER

ADDRESS = "RAY_API_SERVER_ADDRESS"
KNOCK = 5.0  # seconds that a cluster gets to take a connection, and again to answer
PATIENCE = 60.0  # seconds without an answer after which a cluster counts as gone
BROKEN = (ConnectionError, requests.ConnectionError)
STOP_WAIT = 20.0  # seconds that an interrupted job gets to end


def connect(address: str | None) -> Client:
    """Client of the cluster at `address` or in the environment.

    Raises DavssError, within seconds, when none answers, when it wants another token, and when it
    is of another version of Ray.
    """
    named = map(os.environ.get, (CLUSTER, ADDRESS, "RAY_ADDRESS"))
    address = (address or next(filter(None, named), "")).rstrip("/")
    if not address:
        raise DavssError(f"--address: no cluster named; give http://HEAD:8265 or set {CLUSTER}")
    if not address.startswith(("http://", "https://")):
        raise DavssError(
            f"{CLUSTER}={address}: give the dashboard's http address, http://HEAD:8265"
        )
    os.environ[ADDRESS] = (
        address  # Ray lets RAY_ADDRESS win over its own argument, but not over this
    )
    try:
        requests.get(f"{address}/api/version", timeout=KNOCK)  # Ray itself would wait for ever
        client = Client(address)
        version = client._server_ray_version
    except AuthenticationError:
        raise DavssError(
            f"{address}: the cluster wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None
    except (ConnectionError, requests.RequestException, RuntimeError) as error:
        mend = "check the address, or the port-forward to its head"
        if requests.utils.get_environ_proxies(address):
            mend = "http_proxy is in its way: add the host of the cluster to no_proxy"
        raise DavssError(f"{address}: no Ray cluster answers ({_line(error)}); {mend}") from None
    if version != ray.__version__:
        raise DavssError(
            f"{address}: the cluster runs Ray {version}, here is {ray.__version__}; install "
            "requirements.lock on both"
        )
    return client


def state(client: Client, job: str) -> JobStatus | None:
    """Where the job is; None for one that the cluster does not know."""
    known = {each.submission_id: each.status for each in client.list_jobs()}
    return known.get(job)


def start(
    client: Client, job: str, *, entrypoint: str, runtime_env: dict, **resources: Any
) -> None:
    """Upload the working directory and submit the job, in the place of one that has ended; one
    that somebody else started meanwhile is left running. DavssError when the cluster refuses it.
    """
    began, refused = time.monotonic(), (RuntimeError, ValueError, *BROKEN)
    while True:
        try:
            known = state(client, job)
            if known is not None and not known.is_terminal():
                return  # somebody else's, or an attempt that was not answered
            if known is not None:
                client.delete_job(job)
            client.submit_job(
                entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env, **resources
            )
            return
        except refused as error:
            again = isinstance(error, BROKEN) or "already exists" in str(error)
            if not again or time.monotonic() - began > PATIENCE:
                raise DavssError(f"{job}: the cluster refused the job ({_line(error)})") from None
        time.sleep(1)


def wait(client: Client, job: str) -> int:
    """Stream the log until the job ends; returns its exit status.

    Ctrl-C leaves it running, unless whoever sits at the terminal wants it stopped.
    """
    try:
        details = asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        if _wants_stop(job):
            print(f"stopping job {job}", flush=True)
            stop(client, job)
        else:
            print(f"job {job} runs on; the same command joins it again", flush=True)
        raise
    if details.status == JobStatus.SUCCEEDED:
        return 0
    print(f"job {job}: {details.status.value.lower()}; {details.message}", flush=True)
    return details.driver_exit_code or 1


async def _follow(client: Client, job: str) -> JobDetails:
    printed, heard = 0, time.monotonic()
    while True:
        try:
            position = 0  # every tail starts from the first line again
            async for text in client.tail_job_logs(job):
                fresh = text[max(printed - position, 0) :]
                position += len(text)
                printed, heard = max(printed, position), time.monotonic()
                print(fresh, end="", flush=True)
            details = await asyncio.to_thread(client.get_job_info, job)
            heard = time.monotonic()
            if details.status.is_terminal():
                return details
        except (
            RuntimeError,
            ConnectionError,
            requests.RequestException,
            aiohttp.ClientError,
        ) as error:
            if time.monotonic() - heard > PATIENCE:
                raise DavssError(
                    f"{job}: the cluster does not answer any more ({_line(error)})"
                ) from None
        await asyncio.sleep(1)


def _wants_stop(job: str) -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return input(f"\nstop job {job}? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def stop(client: Client, job: str) -> None:
    """Stop a job and wait for its end, for a while."""
    try:
        client.stop_job(job)
        end = time.monotonic() + STOP_WAIT
        while not client.get_job_status(job).is_terminal() and time.monotonic() < end:
            time.sleep(0.5)
    except (RuntimeError, ConnectionError, requests.RequestException) as error:
        raise DavssError(f"{job}: could not be stopped ({_line(error)}); stop it by hand") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
