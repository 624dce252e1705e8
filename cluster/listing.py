"""The jobs of a cluster as a table: what `davss jobs` prints."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import requests
from ray.job_submission import JobDetails
from ray.job_submission import JobSubmissionClient as Client
from ray.util.state import list_actors
from ray.util.state.exception import RayStateApiException

COLUMNS = ("id", "stage", "state", "progress", "age", "nodes", "GPU h", "last line")
LAST = 60  # characters of the last line
_PROGRESS = re.compile(r"(\d+)/(\d+)")


def rows(client: Client) -> list[dict[str, Any]]:
    """What `COLUMNS` name of every job that was submitted, the newest last.

    GPU hours are those of the actors at work, from the job's start until now; none once it ended.
    """
    jobs = [job for job in client.list_jobs() if job.submission_id]
    return [_row(client, job) for job in sorted(jobs, key=lambda job: job.start_time or 0)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows in columns as wide as they need to be."""
    cells = [COLUMNS, *(tuple(str(row[name]) for name in COLUMNS) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _row(client: Client, job: JobDetails) -> dict[str, Any]:
    id, began, ended = str(job.submission_id), job.start_time or 0, job.end_time
    lines = client.get_job_logs(id).split("\n")
    last = next((line.rpartition("\r")[2].strip() for line in reversed(lines) if line.strip()), "")
    progress = _PROGRESS.findall(last)
    seconds = max((ended / 1000 if ended else time.time()) - began / 1000, 0)
    nodes, gpus = (0, 0.0) if ended else _in_use(client, job)
    return {
        "id": id,
        "stage": id.rpartition("-")[0],
        "state": job.status.value.lower(),
        "progress": f"{int(progress[-1][0]) / max(int(progress[-1][1]), 1):.0%}"
        if progress
        else "",
        "age": f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}",
        "nodes": nodes or "",
        "GPU h": f"{gpus * seconds / 3600:.1f}" if gpus else "",
        "last line": last[:LAST],
    }


def _in_use(client: Client, job: JobDetails) -> tuple[int, float]:
    """Nodes and GPUs of the job's actors."""
    try:
        actors = list_actors(
            address=client.get_address(),
            filters=[("job_id", "=", job.job_id or ""), ("state", "=", "ALIVE")],
            detail=True,
            raise_on_missing_output=False,
        )
    except (RayStateApiException, requests.RequestException, ConnectionError):
        return 0, 0.0
    gpus = sum((actor.required_resources or {}).get("GPU", 0) for actor in actors)
    return len({actor.node_id for actor in actors}), gpus
