"""A job on a Ray cluster over the Jobs API: start it, stream its log, wait, stop it."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus
from ray.job_submission import JobSubmissionClient as Client

from davss.errors import DavssError

ADDRESS = "RAY_API_SERVER_ADDRESS"
PATIENCE = 60.0  # seconds without an answer after which a cluster counts as gone
STOP_WAIT = 20.0  # seconds that an interrupted job gets to end


def connect(address: str | None) -> Client:
    """Client of the cluster at `address` or in the environment; DavssError when none answers."""
    address = address or os.environ.get(ADDRESS) or os.environ.get("RAY_ADDRESS")
    if not address:
        raise DavssError(f"--address: no cluster named; give http://HEAD:8265 or set {ADDRESS}")
    if not address.startswith(("http://", "https://")):
        raise DavssError(
            f"--address {address}: give the dashboard's http address, http://HEAD:8265"
        )
    os.environ[ADDRESS] = (
        address  # Ray lets RAY_ADDRESS win over its own argument, but not over this
    )
    try:
        return Client(address)
    except AuthenticationError:
        raise DavssError(
            f"{address}: the cluster wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None
    except (ConnectionError, requests.RequestException, RuntimeError) as error:
        raise DavssError(
            f"{address}: no Ray cluster answers ({_line(error)}); check the address, or the "
            "port-forward to its head"
        ) from None


def start(
    client: Client, job: str, *, entrypoint: str, runtime_env: dict, **resources: Any
) -> None:
    """Upload the working directory and submit the job; DavssError when the cluster refuses it."""
    try:
        client.submit_job(
            entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env, **resources
        )
    except (RuntimeError, ValueError, ConnectionError, requests.RequestException) as error:
        raise DavssError(f"{job}: the cluster refused the job ({_line(error)})") from None


def wait(client: Client, job: str) -> int:
    """Stream the log until the job ends; returns its exit status; Ctrl-C stops the job."""
    try:
        details = asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        print(f"stopping job {job}", flush=True)
        _stop(client, job)
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


def _stop(client: Client, job: str) -> None:
    try:
        client.stop_job(job)
        end = time.monotonic() + STOP_WAIT
        while not client.get_job_status(job).is_terminal() and time.monotonic() < end:
            time.sleep(0.5)
    except (RuntimeError, ConnectionError, requests.RequestException) as error:
        raise DavssError(f"{job}: could not be stopped ({_line(error)}); stop it by hand") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
