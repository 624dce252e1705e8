"""Starts the training loop in Ray Train workers, on this machine or the cluster of RAY_ADDRESS.

Ray Train starts the workers again when some die or nodes come and go, and davss resumes from its
own checkpoints; Ray's folder is emptied before every start, because a run of the same name and
storage would be restored and may return its old result.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from davss import cores
from davss.errors import DavssError
from davss.ray_session import Amounts, nodes, ray_running, room, wait_for_room
from davss.storage import publish
from davss.storage.files import full_disk_explained
from davss.training import checkpoint
from davss.training.job import TrainingJob, Worker
from davss.training.loop import check_workers, train
from davss.training.progress import shown
from davss.training.signals import StopRequest, sigterm_writes

_RESIZE_SECONDS = 60.0  # how often an elastic run looks for more workers
MAX_FAILURES = 3  # times in a row that workers are started again after some died
STOPPED_STATUS = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Resources:
    """Workers of a run and what each may use; `min_workers` are enough to go on."""

    num_workers: int
    threads: int
    use_gpu: bool
    min_workers: int

    @property
    def per_worker(self) -> dict[str, float]:
        """What a worker reserves of Ray."""
        return {"CPU": self.threads, "GPU": int(self.use_gpu)}


def parse_workers(text: str | None) -> tuple[int, int] | None:
    """DAVSS_NUM_WORKERS: "4" → (4, 4), elastic "1-4" → (1, 4), nothing → None; else DavssError."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise DavssError(
            f"DAVSS_NUM_WORKERS={text}: give the number of training workers, 1 or more, or the "
            "fewest and the most such as 1-4"
        )
    return low, high


def plan_resources(num_workers: tuple[int, int] | None, nodes: Sequence[Amounts]) -> Resources:
    """(fewest, most) workers, or one per GPU of the nodes, or two where there is no GPU; they share
    the cores.
    """
    cores = int(sum(node.get("CPU", 0) for node in nodes))
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    # Two processes of one thread beat one of two threads, most of all on a busy machine.
    low, high = num_workers or (gpus or max(min(cores, 2), 1),) * 2
    threads = 1
    while room(nodes, {"CPU": threads + 1, "GPU": int(gpus > 0)}) >= high:
        threads += 1
    return Resources(high, threads, use_gpu=gpus > 0, min_workers=low)


def this_machine() -> Amounts:
    """What Ray would find here."""
    return {"CPU": cores.count(), "GPU": torch.cuda.device_count()}


def launch(job: TrainingJob, num_workers: tuple[int, int] | None) -> None:
    """Train to the end with Ray Train; the progress appears on stderr.

    On SIGTERM the workers save, and this process exits with status 143. Raises DavssError for what
    a worker reports as such, and when workers die too often.
    """
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError
    from ray.train.torch import TorchTrainer

    most = num_workers[1] if num_workers else 1
    check_workers(job.config.training, most)
    with full_disk_explained(job.state):
        job.state.mkdir(parents=True, exist_ok=True)
        job.log_file.touch()
        _error_file(job).unlink(missing_ok=True)
    shutil.rmtree(job.state / "ray", ignore_errors=True)
    if job.mirror:
        job.mirror.remove("ray")
        job.mirror.remove(_error_file(job).name)
    # Ray sets a handler of SIGTERM of its own when it starts: ours comes after.
    slots = max(int(this_machine()["CPU"]), most)
    stopping = sigterm_writes(_stop_file(job), job.mirror)
    with ray_running(slots), stopping, shown(job.log_file, job.mirror):
        resources = plan_resources(num_workers, nodes())
        check_workers(job.config.training, resources.num_workers)
        print(f"{job.name} starts on {_describe(resources)}", file=sys.stderr, flush=True)
        wait_for_room(job.name, resources.per_worker, resources.min_workers)
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": job, "threads": resources.threads},
            scaling_config=_scaling(resources),
            run_config=_run_config(job),
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error, job) from None
        except (SystemExit, RayActorError):
            # Ray's own handler of Ctrl-C ends the controller, and then this process with status 0.
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGINT, handler)
    _check_end(job)


def _check_end(job: TrainingJob) -> None:
    """Raise or exit unless the run is complete."""
    if job.mirror:
        job.mirror.receive(_error_file(job).name)
    job.pull_checkpoints()
    if _error_file(job).exists():
        raise DavssError(_error_file(job).read_text(encoding="utf-8"))
    seen = checkpoint.samples_seen(job.checkpoints)
    if seen >= job.config.training.total_samples:
        return
    if _stop_file(job).exists():
        print(
            f"{job.name} stopped at {seen} samples; run the stage again to go on", file=sys.stderr
        )
        sys.exit(STOPPED_STATUS)
    raise DavssError(f"training of {job.name}: stopped early; run the stage again to go on")


def _scaling(resources: Resources) -> Any:
    from ray.train import ScalingConfig

    # The keywords are those of Ray Train v2, which type checkers do not see.
    low, high = resources.min_workers, resources.num_workers
    return ScalingConfig(
        num_workers=high if low == high else (low, high),  # type: ignore[arg-type]
        elastic_resize_monitor_interval_s=_RESIZE_SECONDS,  # type: ignore[call-arg]
        use_gpu=resources.use_gpu,
        resources_per_worker=resources.per_worker,
    )


def _run_config(job: TrainingJob) -> Any:
    from ray.train import FailureConfig, RunConfig

    return RunConfig(
        name=job.state.name,
        storage_path=_ray_folder(job),
        failure_config=FailureConfig(
            max_failures=MAX_FAILURES,
            max_preemption_failures=-1,  # type: ignore[call-arg]
        ),
    )


def _ray_folder(job: TrainingJob) -> str:
    """Where Ray Train keeps what it needs to; all nodes must reach it."""
    return job.mirror.store.locate(f"{job.mirror.name}/ray") if job.mirror else f"{job.state}/ray"


def _stop_file(job: TrainingJob) -> Path:
    return job.state / "stop"


def _error_file(job: TrainingJob) -> Path:
    """What the user can mend, as a worker put it: with it the run ends instead of trying again."""
    return job.state / "error.txt"


def _describe(resources: Resources) -> str:
    kind = "GPU" if resources.use_gpu else "CPU"
    low, most = resources.min_workers, resources.num_workers
    count = f"{most}" if low == most else f"{low} to {most}"
    return f"{count} {kind} worker(s) with {resources.threads} thread(s) each"


class _Preempted(Exception):
    """A worker was asked to go by SIGTERM; the checkpoint is written and others may go on."""


def _work(config: dict[str, Any]) -> None:
    """The function of a Ray Train worker."""
    import ray.train
    import ray.train.torch

    job: TrainingJob = config["job"]
    if job.mirror:
        job.state.mkdir(parents=True, exist_ok=True)
        for file in (_error_file(job), _stop_file(job)):
            file.unlink(missing_ok=True)  # of an earlier run on this node
            job.mirror.receive(file.name)
    if _error_file(job).exists() or _stop_file(job).exists():
        return
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    try:
        with closing(StopRequest(_stop_file(job), job.mirror)) as stop:
            complete = train(job, worker, stop)
            if not complete and not stop.by_driver():
                raise _Preempted(f"SIGTERM; {job.name} goes on elsewhere")
    except DavssError as error:
        with publish(_error_file(job)) as path:
            path.write_text(str(error), encoding="utf-8")
        if job.mirror:
            job.mirror.send(_error_file(job).name)
        raise
    except _Preempted:
        raise
    except Exception as error:
        # Ray hands an exception back without its stack trace.
        raise RuntimeError(traceback.format_exc()) from error


def _cause(error: Exception, job: TrainingJob) -> Exception:
    """What the user should read: a worker's DavssError, the death of a worker, or a stack trace."""
    failures = list(getattr(error, "worker_failures", {}).values())
    for failure in failures:
        if isinstance(failure, DavssError):
            return failure
    # Ray's own classes tell of a lost worker; others notice its death as a broken connection.
    lost = [f for f in failures if type(f).__module__.startswith("ray.") or "by peer" in str(f)]
    if lost:
        return DavssError(
            f"training of {job.name}: workers died (killed, or out of memory) again and again; run "
            f"the stage again to go on from {checkpoint.newest_name(job.checkpoints)} in "
            f"{job.checkpoints}"
        )
    traces = "\n".join(str(failure) for failure in failures) or str(error)
    return RuntimeError(f"training of {job.name} failed:\n{traces}")
