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


@pytest.mark.parametrize(
    ("num_workers", "nodes", "planned"),
    [
        (None, [{"CPU": 2}], (2, 2, 1)),
        (None, [{"CPU": 1}], (1, 1, 1)),
        (None, [{"CPU": 0}, {"CPU": 8}], (2, 2, 4)),
        ((1, 2), [{"CPU": 8}], (1, 2, 4)),
        ((2, 2), [{"CPU": 3}, {"CPU": 5}], (2, 2, 3)),
        ((4, 4), [{"CPU": 2}], (4, 4, 1)),
        (None, [{"CPU": 2}, {"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4}], (8, 8, 8)),
    ],
)
def test_workers_share_what_the_nodes_have(num_workers, nodes, planned):
    resources = plan_resources(num_workers, nodes)
    assert (resources.min_workers, resources.num_workers, resources.threads) == planned
    assert resources.use_gpu == any("GPU" in node for node in nodes)
