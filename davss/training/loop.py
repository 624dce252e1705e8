"""The training loop of one prior, in every worker: batch, loss, gradient, Adam, EMA.

docs/method.md §2. Progress is counted in samples (clips) seen over all workers, and the global
batch is the same for any number of workers, so that every schedule means the same on any machine.
Random numbers of a step come from (seed, samples seen, rank). Nothing here knows Ray: `launch.py`
starts this loop in Ray Train workers.
"""

# Shape legend: B batch (of this worker), T samples, V video frames, D visual feature size.

from __future__ import annotations

import hashlib
import math
import time
from contextlib import closing

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from davss.config import DiffusionConfig, TrainingConfig
from davss.diffusion.loss import training_loss
from davss.errors import DavssError
from davss.shards.loader import Batch
from davss.training import checkpoint
from davss.training.checkpoint import TrainingState
from davss.training.ema import Ema
from davss.training.job import TrainingJob, Worker
from davss.training.reporter import Reporter


class Objective(nn.Module):
    """The prior with its loss: one forward, so that DDP sees every use of the parameters."""

    def __init__(self, prior: nn.Module, config: DiffusionConfig) -> None:
        super().__init__()
        self.prior, self.config = prior, config

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean loss of a batch, ()."""
        loss, _ = training_loss(
            self.prior, batch.audio, batch.lips, batch.has_lips, self.config, generator
        )
        return loss.mean()


def worker_batch_size(config: TrainingConfig, world_size: int) -> int:
    """Clips per worker and step; the global batch must divide among the workers."""
    if config.global_batch_size % world_size:
        raise DavssError(
            f"training.global_batch_size = {config.global_batch_size}: does not divide among "
            f"{world_size} workers; change it or DAVSS_NUM_WORKERS"
        )
    return config.global_batch_size // world_size


def learning_rate(config: TrainingConfig, samples_seen: int) -> float:
    """Linear warm-up, then a cosine from learning_rate to its final fraction at the last sample."""
    if samples_seen < config.warmup_samples:
        return config.learning_rate * samples_seen / config.warmup_samples
    length = max(config.total_samples - config.warmup_samples, 1)
    progress = min((samples_seen - config.warmup_samples) / length, 1.0)
    final = config.final_learning_rate_fraction
    return config.learning_rate * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


def step_seed(*parts: int) -> int:
    """A seed from integers such as (seed, samples seen, rank)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1


def train(job: TrainingJob, worker: Worker = Worker()) -> None:  # noqa: B008 (frozen)
    """Train from the newest checkpoint of the run to its end, and write a last checkpoint.

    Raises DavssError for an indivisible batch or for MAX_BAD_STEPS non-finite steps in a row.
    """
    config = job.config.training
    batch_size = worker_batch_size(config, worker.world_size)
    state = _restore(job, worker)
    objective: nn.Module = Objective(state.prior, job.config.diffusion)
    if worker.world_size > 1:
        objective = DistributedDataParallel(objective)
    batches = job.training_batches(
        batch_size=batch_size,
        samples_seen=state.samples_seen,
        rank=worker.rank,
        world_size=worker.world_size,
    )
    generator = torch.Generator()  # on the CPU: draws do not depend on the device
    began, earlier, bad_steps = time.monotonic(), state.seconds, 0
    with closing(Reporter(job, worker, state)) as reporter:
        while state.samples_seen < config.total_samples:
            batch = to_device(next(batches), worker.device)
            generator.manual_seed(step_seed(job.seed, state.samples_seen, worker.rank))
            state.samples_seen += config.global_batch_size
            rate = learning_rate(config, state.samples_seen)
            loss, norm = step(objective, state, batch, generator, rate, config.grad_clip, worker)
            bad_steps = 0 if math.isfinite(loss + norm) else bad_steps + 1
            state.seconds = earlier + time.monotonic() - began
            reporter.after_step(loss, norm, rate, bad_steps)


def step(
    objective: nn.Module,
    state: TrainingState,
    batch: Batch,
    generator: torch.Generator,
    rate: float,
    grad_clip: float,
    worker: Worker,
) -> tuple[float, float]:
    """Update the weights and the EMA; returns loss (mean of all workers) and gradient norm.

    Where either is not finite no weight changes, on any worker.
    """
    state.optimiser.zero_grad(set_to_none=True)
    loss = objective(batch, generator)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.prior.parameters(), grad_clip)
    # One transfer for both; the loss is averaged so that all workers take the same decision.
    figures = torch.stack([loss.detach(), norm])
    if worker.world_size > 1:
        dist.all_reduce(figures)
    mean_loss, mean_norm = (figures / worker.world_size).tolist()
    if math.isfinite(mean_loss + mean_norm):
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.step()
        state.ema.update(state.prior)
    return mean_loss, mean_norm


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; on the CPU the batch itself."""
    if device.type == "cpu":
        return batch
    return Batch(
        audio=batch.audio.to(device, non_blocking=True),
        lips=None if batch.lips is None else batch.lips.to(device, non_blocking=True),
        has_lips=batch.has_lips.to(device, non_blocking=True),
        keys=batch.keys,
    )


def _restore(job: TrainingJob, worker: Worker) -> TrainingState:
    """A new state, or the one of the newest checkpoint."""
    torch.manual_seed(job.seed)  # the same first weights in every worker
    # channels-last convolutions are about a quarter faster, on the CPU and on tensor cores
    prior = job.build_prior().train().to(worker.device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(prior.parameters(), lr=0.0, betas=(0.9, 0.999))
    state = TrainingState(prior, optimiser, Ema(prior, job.config.training.ema_decay))
    saved = checkpoint.load_newest(job.checkpoints)
    if saved is not None:
        state.load_state_dict(saved)
    return state
