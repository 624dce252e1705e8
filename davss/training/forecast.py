"""What the training of a prior will take: steps, FLOPs, memory, GPU days. Computes nothing.

FLOPs are counted on torch's meta device, memory by the tensors that autograd would save.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from davss.config import TrainingConfig
from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.networks import NCSNpp
from davss.profiling.counting import num_parameters, pass_flops, spectrogram_shape
from davss.profiling.forecast import ASSUMED_FRACTION, ASSUMED_TFLOPS, H100_TFLOPS
from davss.profiling.text import brief, si

# gradient of the weights and gradient of the activations, each about a forward
STEP_FORWARDS = 3
# float32: weights, gradients, two moments of Adam, EMA
BYTES_PER_PARAMETER = 4 * (1 + 1 + 2 + 1)
DAY = 86_400


@dataclass(frozen=True)
class TrainingForecast:
    """Work and memory of a run; `gpu_days` holds at the assumed rate only."""

    parameters: int
    global_batch: int
    worker_batch: int  # clips of a step for the worker that has most
    at_a_time: int  # of them; their gradients are accumulated
    num_workers: int
    steps: int
    forward_flops: int  # of one clip
    step_flops: int  # of all workers
    state_bytes: int  # of each worker
    activation_bytes: int  # of each worker, float32
    gpu_tflops: float
    gpu_days: float  # of all GPUs together
    days: float


def forecast_training(
    prior: SpeechPrior | NoisePrior,
    training: TrainingConfig,
    num_workers: int,
    gpu_tflops: float = ASSUMED_TFLOPS,
) -> TrainingForecast:
    """The forecast for `prior`, with `gpu_tflops` TFLOP/s sustained by each worker."""
    num_samples = round(training.crop_seconds * prior.sample_rate)
    forward = pass_flops(prior, num_samples).forward
    step_flops = STEP_FORWARDS * forward * training.global_batch_size
    steps = math.ceil(training.total_samples / training.global_batch_size)
    worker_batch = math.ceil(training.global_batch_size / num_workers)
    at_a_time = min(worker_batch, training.max_batch_per_worker or worker_batch)
    parameters = num_parameters(prior)
    gpu_days = steps * step_flops / (gpu_tflops * 1e12) / DAY
    return TrainingForecast(
        parameters=parameters,
        global_batch=training.global_batch_size,
        worker_batch=worker_batch,
        at_a_time=at_a_time,
        num_workers=num_workers,
        steps=steps,
        forward_flops=forward,
        step_flops=step_flops,
        state_bytes=BYTES_PER_PARAMETER * parameters,
        activation_bytes=at_a_time * saved_bytes(prior, num_samples),
        gpu_tflops=gpu_tflops,
        gpu_days=gpu_days,
        # all wait for the worker with the most clips
        days=gpu_days * worker_batch / training.global_batch_size,
    )


def saved_bytes(prior: SpeechPrior | NoisePrior, num_samples: int) -> int:
    """Bytes that autograd saves of one clip in float32, on the meta device; weights excepted."""
    with torch.device("meta"):
        twin = type(prior)(*_arguments(prior)).network
        bins, _, padded = spectrogram_shape(prior, num_samples)
        x, c_noise = torch.empty(1, twin.num_inputs, bins, padded), torch.empty(1)
    weights = {id(p) for p in twin.parameters()}
    storages: dict[int, Tensor] = {}  # held, so that no id is used twice

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights and not isinstance(tensor, torch.nn.Parameter):
            storages.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        NCSNpp._unet(twin, x, c_noise, twin.condition(None, None, 1, num_samples))
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def _arguments(prior: SpeechPrior | NoisePrior) -> tuple:
    return (prior.info, prior.visual_encoder) if isinstance(prior, SpeechPrior) else (prior.info,)


def describe_forecast(forecast: TrainingForecast) -> dict[str, str]:
    """The forecast in words, by title."""
    assumed = "by --gpu-tflops"
    if forecast.gpu_tflops == ASSUMED_TFLOPS:
        assumed = f"{ASSUMED_FRACTION:.0%} of an H100's {H100_TFLOPS:g} in dense bf16"
    return {
        "work": f"{si(forecast.step_flops, 'FLOP')} a step: {forecast.global_batch} clips × "
        f"{STEP_FORWARDS} × {si(forecast.forward_flops, 'FLOP')} of a forward (a backward counts "
        "as two forwards)",
        "memory": f"{si(forecast.state_bytes, 'B')} a worker for weights, gradients, Adam and EMA, "
        f"{si(forecast.activation_bytes, 'B')} for activations of {forecast.at_a_time} clip(s) in "
        "float32, an estimate (bfloat16 takes less); workspaces come on top",
        "GPU days": f"{brief(forecast.gpu_days)} if a GPU sustains {forecast.gpu_tflops:g} "
        f"TFLOP/s: assumed ({assumed}), not measured",
        "duration": f"{brief(forecast.days)} days on {forecast.num_workers} such GPU(s), if the "
        "loader and the network between them keep up",
    }
