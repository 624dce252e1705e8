"""`davss jobs`: the table of a cluster's jobs, and what is said where there is none."""

import time
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from cluster import jobs, listing
from davss.cli import main
from davss.errors import DavssError

HOUR = 3600_000  # ms


def job(id: str | None, status: JobStatus, start: float, end: float | None) -> SimpleNamespace:
    return SimpleNamespace(
        submission_id=id, status=status, start_time=start, end_time=end, job_id="01"
    )


class Client:
    """Two submitted jobs, and one of a driver that nobody submitted."""

    def list_jobs(self):
        now = time.time() * 1000
        return [
            job("train-speech-ab12", JobStatus.RUNNING, now - 2 * HOUR, None),
            job("shards-dns-cd34", JobStatus.SUCCEEDED, now - 5 * HOUR, now - 4.5 * HOUR),
            job(None, JobStatus.RUNNING, now, None),
        ]

    def get_job_logs(self, id):
        return {"shards-dns-cd34": "done\n"}.get(
            id, "start\nspeech 10/40\rspeech 30/40 samples\n\n"
        )


def test_jobs_are_listed_the_newest_last(monkeypatch):
    monkeypatch.setattr(listing, "_in_use", lambda client, job: (2, 4.0))
    ended, running = listing.rows(Client())
    assert ended["stage"] == "shards-dns" and ended["state"] == "succeeded"
    assert (ended["age"], ended["nodes"], ended["progress"]) == ("0:30", "", "")
    assert running["last line"] == "speech 30/40 samples" and running["progress"] == "75%"
    assert (running["age"], running["nodes"], running["GPU h"]) == ("2:00", 2, "8.0")
    lines = listing.table([ended, running]).splitlines()
    assert len(lines) == 3 and lines[2].index("75%") == lines[0].index("progress")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("jobs", "no cluster named"),
        ("jobs --address head:8265", "give the dashboard's http address"),
        ("jobs --address http://127.0.0.1:1", "no Ray cluster answers"),
        ("jobs stop", "give `jobs`, `jobs logs ID` or `jobs stop ID`"),
    ],
)
def test_one_line_where_nothing_answers(monkeypatch, capsys, flags, message):
    for name in (jobs.CLUSTER, jobs.ADDRESS, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(jobs.ADDRESS, "")  # restored afterwards: `connect` sets it
    began = time.monotonic()
    with pytest.raises(SystemExit, match="2"):
        main(flags.split())
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and time.monotonic() - began < 15


@pytest.mark.parametrize(("no_proxy", "mend"), [("", "to no_proxy$"), ("127.0.0.1", "its head$")])
def test_a_proxy_between_here_and_the_cluster_is_named(monkeypatch, no_proxy, mend):
    for name in ("NO_PROXY", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", no_proxy)
    monkeypatch.setenv(jobs.ADDRESS, "")  # it is set on the way
    with pytest.raises(DavssError, match=f"no Ray cluster answers .*{mend}"):
        jobs.connect("http://127.0.0.1:9")
