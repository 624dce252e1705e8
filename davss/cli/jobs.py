"""`davss jobs`: what runs on the cluster of $DAVSS_CLUSTER, its logs, and its end.

The work is that of the clone's package `cluster`, which an installation without clone lacks.
"""

from __future__ import annotations

import argparse
from typing import Any

from davss.errors import DavssError


def add_jobs(commands: Any) -> None:
    """The subcommand `jobs`."""
    command = commands.add_parser("jobs", help="what runs on a cluster; logs ID, stop ID")
    command.add_argument("action", nargs="?", choices=("list", "logs", "stop"), default="list")
    command.add_argument("job", nargs="?", metavar="ID", help="a job, as the list names it")
    command.add_argument("--address", help="http://HEAD:8265 (default: $DAVSS_CLUSTER)")
    command.set_defaults(run=_jobs)


def _jobs(arguments: argparse.Namespace) -> None:
    if (arguments.job is None) != (arguments.action == "list"):
        raise DavssError("jobs: give `jobs`, `jobs logs ID` or `jobs stop ID`")
    try:
        from cluster import jobs, listing
    except ModuleNotFoundError as error:
        if error.name != "cluster":
            raise
        raise DavssError("jobs: work in a clone of davss only, installed by `make env`") from None
    client = jobs.connect(arguments.address)
    if arguments.action == "list":
        print(listing.table(listing.rows(client)))
        return
    if jobs.state(client, arguments.job) is None:
        raise DavssError(f"{arguments.job}: no such job; `davss jobs` lists them")
    if arguments.action == "stop":
        jobs.stop(client, arguments.job)
    else:
        print(client.get_job_logs(arguments.job), end="")
