"""What the user reads when a worker fails; resources."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError

from davss.errors import DavssError
from davss.training.launch import _cause, plan_resources

JOB = SimpleNamespace(name="speech", checkpoints=Path("somewhere"))


def test_a_workers_davss_error_is_the_message():
    failures = {0: RayActorError(), 1: DavssError("lips: wrong size")}
    cause = _cause(WorkerGroupError("both failed", failures), JOB)
    assert isinstance(cause, DavssError) and str(cause) == "lips: wrong size"


@pytest.mark.parametrize(
    "failure", [RayActorError(), RuntimeError("gloo: Connection closed by peer")]
)
def test_a_dead_worker_says_how_to_go_on(failure):
    cause = _cause(WorkerGroupError("died", {0: failure}), JOB)
    assert isinstance(cause, DavssError) and "again to go on" in str(cause)


def test_a_defect_keeps_its_stack_trace():
    cause = _cause(WorkerGroupError("snippet", {0: RuntimeError("long story")}), JOB)
    assert not isinstance(cause, DavssError) and "long story" in str(cause)


def test_resources_share_the_cores():
    one, two = plan_resources((1, 1)), plan_resources((1, 2))
    assert one.num_workers == 1 and (two.min_workers, two.num_workers) == (1, 2)
    assert two.threads == max(one.threads // 2, 1)
    assert plan_resources().num_workers >= 1
