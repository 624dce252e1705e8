"""Starts the training loop in Ray Train workers, on this machine or the cluster of RAY_ADDRESS.

Ray Train restores a run of the same name and storage by itself and may return its old result; davss
resumes from its own checkpoints instead, so Ray's folder is emptied before every start.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import torch

from davss.errors import DavssError
from davss.ray_session import ray_running
from davss.training import checkpoint
from davss.training.job import TrainingJob, Worker
from davss.training.progress import shown


@dataclass(frozen=True)
class Resources:
    """Workers of a run and what each may use."""

    num_workers: int
    threads: int
    use_gpu: bool


def plan_resources(num_workers: int | None = None) -> Resources:
    """`num_workers`, or one per GPU, or two where there is no GPU; they share the cores."""
    cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    # Two processes of one thread beat one of two threads, most of all on a busy machine.
    workers = num_workers or gpus or min(cores, 2)
    return Resources(workers, max(cores // workers, 1), use_gpu=gpus > 0)


def launch(job: TrainingJob, resources: Resources) -> None:
    """Train to the end with Ray Train; the progress appears on stderr.

    Raises DavssError for what a worker reports as such, and when a worker dies.
    """
    from ray.exceptions import RayActorError
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    shutil.rmtree(job.state / "ray", ignore_errors=True)
    print(f"{job.name} starts on {_describe(resources)}", file=sys.stderr, flush=True)
    with ray_running(resources.num_workers * resources.threads), shown(job.log_file):
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": job, "threads": resources.threads},
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu=resources.use_gpu,
                resources_per_worker={"CPU": resources.threads, "GPU": int(resources.use_gpu)},
            ),
            run_config=RunConfig(name=job.state.name, storage_path=str(job.state / "ray")),
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
    saved = checkpoint.load_newest(job.checkpoints)
    if saved is None or saved["samples_seen"] < job.config.training.total_samples:
        raise DavssError(f"training of {job.name}: stopped early; run the stage again to go on")


def _describe(resources: Resources) -> str:
    kind = "GPU" if resources.use_gpu else "CPU"
    return f"{resources.num_workers} {kind} worker(s) with {resources.threads} thread(s) each"


def _work(config: dict[str, Any]) -> None:
    """The function of a Ray Train worker."""
    import ray.train
    import ray.train.torch

    from davss.training.loop import train

    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    try:
        train(config["job"], worker)
    except DavssError:
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
            f"training of {job.name}: a worker died (killed, or out of memory); run the stage "
            f"again to go on from the newest checkpoint in {job.checkpoints}"
        )
    traces = "\n".join(str(failure) for failure in failures) or str(error)
    return RuntimeError(f"training of {job.name} failed:\n{traces}")
