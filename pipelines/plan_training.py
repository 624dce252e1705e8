"""What a run of training would do and take: `pipelines.train_prior NAME --dry-run`."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path

from davss import config
from davss.config import PriorConfig, ShardsConfig
from davss.diffusion.prior import PriorInfo
from davss.errors import DavssError
from davss.networks.lipsound import BANDS
from davss.profiling import ASSUMED_TFLOPS, assumed, brief, check_tflops, si
from davss.profiling.counting import num_parameters, pass_flops, saved_bytes, untrained_prior
from davss.training import checkpoint, launch
from davss.training.loop import check_workers
from pipelines.compose import compose
from pipelines.training_job import SPEECH, make_job, section_of

STEP_FORWARDS = 3  # gradients of weights and of activations: each about a forward
# float32: weights, gradients, two moments of Adam, EMA
BYTES_PER_PARAMETER = 4 * (1 + 1 + 2 + 1)
BRAVEN_LARGE_DIM = 1024


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--dry-run` and what it plans for."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and stop")
    planned = parser.add_argument_group("what a dry run plans for")
    planned.add_argument("--gpus", type=int, metavar="N", help="workers with a GPU each")
    planned.add_argument("--profile", help="demo, paper or small, in place of the params file")
    planned.add_argument(
        "--gpu-tflops",
        type=float,
        default=ASSUMED_TFLOPS,
        help="TFLOP/s that a GPU is assumed to sustain (default: %(default)g)",
    )


def dry_run(arguments: argparse.Namespace) -> str:
    """What a run would do and take, in lines; the corpora need not be there."""
    if arguments.gpus is not None and arguments.gpus < 1:
        raise DavssError(f"--gpus {arguments.gpus}: give a number of GPUs, 1 or more")
    check_tflops(arguments.gpu_tflops)
    machine = launch.this_machine()
    workers = launch.parse_workers(os.environ.get("DAVSS_NUM_WORKERS"))
    if arguments.gpus:
        machine, workers = {**machine, "GPU": arguments.gpus}, None
    resources = launch.plan_resources(workers, [machine])
    with tempfile.TemporaryDirectory() as folder:
        params = Path(arguments.params)
        if arguments.profile:
            params = Path(folder) / "params.yaml"
            params.write_text(compose(arguments.profile), encoding="utf-8")
        lines = forecast(arguments.name, params, resources, arguments.gpu_tflops)
        try:
            job = make_job(arguments.name, params, "disabled")
        except DavssError as error:
            lines["state"] = f"none yet: {error}"
        else:
            lines["samples seen"] = f"{checkpoint.samples_seen(job.checkpoints):,}"
            lines["state"] = str(job.state)
    return "\n".join(f"{name + ':':<14} {value}" for name, value in lines.items())


def forecast(
    name: str, params: Path, resources: launch.Resources, gpu_tflops: float
) -> dict[str, str]:
    """What a run takes, by title; computes nothing."""
    settings = config.load_section(params, section_of(name), PriorConfig)
    shards = config.load_section(params, "shards", ShardsConfig)
    training, workers = settings.training, resources.num_workers
    check_workers(training, workers)
    info = PriorInfo(shards.sample_rate, settings.network, settings.diffusion)
    prior = untrained_prior(info, _lips_dim(shards) if name == SPEECH else None)
    num_samples = round(training.crop_seconds * shards.sample_rate)
    forward, batch = pass_flops(prior, num_samples)[0], training.global_batch_size
    share = math.ceil(batch / workers)  # all wait for the worker with the most clips
    at_a_time = min(share, training.max_batch_per_worker or share)
    steps, parameters = math.ceil(training.total_samples / batch), num_parameters(prior)
    step_flops = STEP_FORWARDS * forward * batch
    gpu_days = steps * step_flops / (gpu_tflops * 1e12) / 86_400
    return {
        "prior": name,
        "parameters": f"{parameters:,}",
        "global batch": f"{batch} clips of {training.crop_seconds:g} s at {shards.sample_rate} Hz",
        "workers": f"{workers} on {'GPU' if resources.use_gpu else 'CPU'}, at most {share} clips "
        f"each, {at_a_time} at a time",
        "steps": f"{steps:,} ({training.total_samples:,} samples)",
        "work": f"{si(step_flops, 'FLOP')} a step: {batch} clips × {STEP_FORWARDS} × "
        f"{si(forward, 'FLOP')} of a forward (a backward counts as two forwards)",
        "memory": f"{si(BYTES_PER_PARAMETER * parameters, 'B')} a worker for weights, gradients, "
        f"Adam and EMA, {si(at_a_time * saved_bytes(prior, num_samples), 'B')} for activations of "
        f"{at_a_time} clip(s) in float32, an estimate (bfloat16 takes less); workspaces on top",
        "GPU days": f"{brief(gpu_days)} if a GPU {assumed(gpu_tflops)}",
        "duration": f"{brief(gpu_days * share / batch)} days on {workers} such GPU(s), if the "
        "loader and the network between them keep up",
    }


def _lips_dim(shards: ShardsConfig) -> int:
    """Feature size of the visual encoder that the shards stage would make."""
    if shards.visual_encoder == "braven":
        return BRAVEN_LARGE_DIM
    return 2 * shards.num_components + (BANDS if shards.visual_encoder == "lipsound" else 0)
