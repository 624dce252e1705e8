"""The training loop of one prior, in every worker: batch, loss, gradient, Adam, EMA.

docs/method.md §2. Progress is counted in samples (clips) seen over all workers, and the global
batch is the same for any number of workers, so that every schedule means the same on any machine.
Random numbers come with the batches and depend on (seed, number of the item) alone: the state of a
run is its weights, the optimiser, the averages and samples seen. Nothing here knows Ray:
`launch.py` starts this loop in Ray Train workers.
"""

# Shape legend: B batch (of this worker), T samples, V video frames, D visual feature size.

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from davss.config import DiffusionConfig, ForeignConfig, TrainingConfig
from davss.diffusion.denoiser import Denoiser
from davss.diffusion.loss import training_loss
from davss.errors import DavssError
from davss.networks.cpu import keep_freed_memory
from davss.networks.precision import resolve
from davss.shards.loader import Batch, micro_batches, shares
from davss.training import checkpoint
from davss.training.checkpoint import TrainingState
from davss.training.ema import Ema
from davss.training.job import TrainingJob, Worker
from davss.training.reporter import Reporter
from davss.training.watchdog import Watchdog


class Objective(nn.Module):
    """The prior with its loss: one forward, so that DDP sees every use of the parameters."""

    def __init__(
        self,
        prior: Denoiser,
        config: DiffusionConfig,
        precision: torch.dtype = torch.float32,
        foreign: ForeignConfig = ForeignConfig(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.prior, self.config, self.precision = prior, config, precision
        self.foreign = foreign

    def forward(self, batch: Batch) -> Tensor:
        """Sum of the losses of a batch, ()."""
        reduced = self.precision != torch.float32
        with torch.autocast(batch.audio.device.type, self.precision, enabled=reduced):
            loss = training_loss(
                self.prior,
                batch.audio,
                batch.lips,
                batch.has_lips,
                self.config,
                batch.noise,
                batch.uniforms,
                batch.foreign,
                self.foreign,
            )
        return loss.sum()


def check_workers(config: TrainingConfig, num_workers: int) -> None:
    """Raise DavssError where a worker would have no clip of the global batch."""
    if num_workers > config.global_batch_size:
        raise DavssError(
            f"training.global_batch_size = {config.global_batch_size}: less than one clip for each "
            f"of {num_workers} workers; raise it or lower DAVSS_NUM_WORKERS"
        )


def learning_rate(config: TrainingConfig, samples_seen: int) -> float:
    """Linear warm-up, then a cosine from learning_rate to its final fraction at the last sample."""
    if samples_seen < config.warmup_samples:
        return config.learning_rate * samples_seen / config.warmup_samples
    length = max(config.total_samples - config.warmup_samples, 1)
    progress = min((samples_seen - config.warmup_samples) / length, 1.0)
    final = config.final_learning_rate_fraction
    return config.learning_rate * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


def train(
    job: TrainingJob,
    worker: Worker = Worker(),  # noqa: B008 (frozen)
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train from the newest checkpoint of the run to its end, and write a last checkpoint.

    Once `should_stop` says so on any worker, all save and stop at the same step. Returns whether
    the run is complete. Raises DavssError for MAX_BAD_STEPS non-finite steps in a row.
    """
    config = job.config.training
    check_workers(config, worker.world_size)
    if worker.device.type == "cpu":
        keep_freed_memory()
    state = _restore(job, worker)
    objective = _objective(job, state, worker)
    batches = _batches(job, worker, state.samples_seen)
    share = shares(config.global_batch_size, worker.world_size)[worker.rank]
    per_step = len(micro_batches(share, config.max_batch_per_worker))
    watchdog = Watchdog(config.hang_factor, config.hang_seconds, job.log_file)
    began, earlier, bad_steps = time.monotonic(), state.seconds, 0
    with closing(Reporter(job, worker, state)) as reporter, closing(watchdog):
        while state.samples_seen < config.total_samples:
            with watchdog.step():
                parts = list(itertools.islice(batches, per_step))
                state.samples_seen += config.global_batch_size
                rate = learning_rate(config, state.samples_seen)
                stop = should_stop()
                loss, norm, stop = step(objective, state, parts, rate, config, worker, stop)
            bad_steps = 0 if math.isfinite(loss + norm) else bad_steps + 1
            state.seconds = earlier + time.monotonic() - began
            reporter.after_step(loss, norm, rate, bad_steps)
            if stop and state.samples_seen < config.total_samples:
                reporter.save()
                return False
    return True


def step(
    objective: nn.Module,
    state: TrainingState,
    parts: Sequence[Batch],
    rate: float,
    config: TrainingConfig,
    worker: Worker,
    stop: bool = False,
) -> tuple[float, float, bool]:
    """Update the weights and the averages from this worker's `parts` of the global batch.

    Returns loss (mean of all workers), gradient norm, and whether any worker wants to stop. Where
    loss or norm are not finite no weight changes, on any worker.
    """
    state.optimiser.zero_grad(set_to_none=True)
    total = torch.zeros((), device=worker.device)
    for number, part in enumerate(parts, 1):
        # Gradients travel once, with the last part; DDP divides by the number of workers.
        last = number == len(parts)
        with contextlib.nullcontext() if last else _unsynchronised(objective):
            loss = objective(part) / config.global_batch_size
            (loss * worker.world_size).backward()
        total += loss.detach()
    norm = nn.utils.clip_grad_norm_(state.prior.parameters(), config.grad_clip)
    # One transfer for all; the figures are summed so that all workers take the same decision.
    figures = torch.stack([total, norm / worker.world_size, torch.full_like(total, float(stop))])
    if worker.world_size > 1:
        dist.all_reduce(figures)
    mean_loss, mean_norm, stops = figures.tolist()
    if math.isfinite(mean_loss + mean_norm):
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.step()
        state.ema.update(state.prior)
    return mean_loss, mean_norm, stops > 0


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; on the CPU the batch itself."""
    if device.type == "cpu":
        return batch
    moved = (
        part.to(device, non_blocking=True) if isinstance(part, Tensor) else part for part in batch
    )
    return Batch._make(moved)


def _batches(job: TrainingJob, worker: Worker, samples_seen: int) -> Iterator[Batch]:
    batches = job.training_batches(
        samples_seen=samples_seen, rank=worker.rank, world_size=worker.world_size
    )
    return (to_device(batch, worker.device) for batch in batches)


def _objective(job: TrainingJob, state: TrainingState, worker: Worker) -> nn.Module:
    config = job.config.training
    if worker.device.type == "cuda":  # float32 may be multiplied with 10 bits of mantissa
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    if config.compile:
        state.prior.compile()
    precision = resolve(config.precision, worker.device)
    assert isinstance(state.prior, Denoiser)
    objective = Objective(state.prior, job.config.diffusion, precision, config.foreign)
    return DistributedDataParallel(objective) if worker.world_size > 1 else objective


def _unsynchronised(objective: nn.Module) -> contextlib.AbstractContextManager[None]:
    if isinstance(objective, DistributedDataParallel):
        return objective.no_sync()
    return contextlib.nullcontext()


def _restore(job: TrainingJob, worker: Worker) -> TrainingState:
    """A new state, or the one of the newest checkpoint."""
    config = job.config.training
    torch.manual_seed(job.seed)  # the same first weights in every worker
    prior = job.build_prior().train().to(worker.device)
    prior = prior.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(prior.parameters(), lr=0.0, fused=True)
    state = TrainingState(prior, optimiser, Ema(prior, config.ema_decay))
    # Rank 0 chooses for all: the folder may not look the same to every node just now.
    if worker.rank == 0:
        job.pull_checkpoints()
    saved = [checkpoint.load_newest(job.checkpoints) if worker.rank == 0 else None]
    if worker.world_size > 1:
        dist.broadcast_object_list(saved, device=worker.device)
    if saved[0] is not None:
        state.load_state_dict(saved[0])
    return state
