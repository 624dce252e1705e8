"""What a run of training would do and take: `pipelines.train_prior NAME --dry-run`."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from davss import config
from davss.config import PriorConfig, ShardsConfig, TrainingConfig
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior
from davss.errors import DavssError
from davss.networks.eigenlips import Eigenlips
from davss.networks.lipsound import BANDS, LipSound
from davss.networks.visual import BravenLips
from davss.profiling.forecast import ASSUMED_TFLOPS
from davss.training import checkpoint, launch, loop
from davss.training.forecast import describe_forecast, forecast_training
from pipelines.compose import compose
from pipelines.training_job import SPEECH, make_job, section_of


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
    if not arguments.gpu_tflops > 0:
        raise DavssError(f"--gpu-tflops {arguments.gpu_tflops:g}: give a rate above 0")
    machine = launch.this_machine()
    workers = launch.parse_workers(os.environ.get("DAVSS_NUM_WORKERS"))
    if arguments.gpus:
        machine, workers = {**machine, "GPU": arguments.gpus}, None
    resources = launch.plan_resources(workers, [machine])
    with tempfile.TemporaryDirectory() as folder:
        params = Path(arguments.params)
        if arguments.profile:
            params = Path(folder) / "params.yaml"
            params.write_text(compose(arguments.profile))
        prior = _planned_prior(arguments.name, params)
        training = config.load_section(params, section_of(arguments.name), PriorConfig).training
        loop.check_workers(training, resources.num_workers)
        lines = describe(arguments.name, prior, training, resources, arguments.gpu_tflops)
        try:
            job = make_job(arguments.name, params, "disabled")
        except DavssError as error:
            lines["state"] = f"none yet: {error}"
        else:
            lines["samples seen"] = f"{checkpoint.samples_seen(job.checkpoints):,}"
            lines["state"] = str(job.state)
    return "\n".join(f"{name + ':':<14} {value}" for name, value in lines.items())


def _planned_prior(name: str, params: Path) -> SpeechPrior | NoisePrior:
    """An untrained prior of the settings, with an empty visual encoder of the right size."""
    prior_config = config.load_section(params, section_of(name), PriorConfig)
    shards = config.load_section(params, "shards", ShardsConfig)
    info = PriorInfo(shards.sample_rate, prior_config.network, prior_config.diffusion)
    if name != SPEECH:
        return NoisePrior(info)
    if shards.visual_encoder == "braven":
        return SpeechPrior(info, BravenLips("", 1024, 16, 4096, 24))  # Large
    basis = np.zeros((1, shards.num_components), np.float32)
    encoder = Eigenlips(basis, np.ones(2 * shards.num_components, np.float32))
    if shards.visual_encoder == "lipsound":
        return SpeechPrior(info, LipSound(encoder, np.zeros((1, BANDS), np.float32)))
    return SpeechPrior(info, encoder)


def describe(
    name: str,
    prior: SpeechPrior | NoisePrior,
    training: TrainingConfig,
    resources: launch.Resources,
    gpu_tflops: float,
) -> dict[str, str]:
    """What a run takes, by title."""
    forecast = forecast_training(prior, training, resources.num_workers, gpu_tflops)
    kind = "GPU" if resources.use_gpu else "CPU"
    return {
        "prior": name,
        "parameters": f"{forecast.parameters:,}",
        "global batch": f"{forecast.global_batch} clips of {training.crop_seconds:g} s at "
        f"{prior.sample_rate} Hz",
        "workers": f"{resources.num_workers} on {kind}, at most {forecast.worker_batch} clips "
        f"each, {forecast.at_a_time} at a time",
        "steps": f"{forecast.steps:,} ({training.total_samples:,} samples)",
        **describe_forecast(forecast),
    }
