"""What surrounds the training steps: validation, checkpoints, W&B, progress lines, giving up."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.errors import DavssError
from davss.training import checkpoint, tracking
from davss.training.checkpoint import TrainingState
from davss.training.job import TrainingJob, Worker
from davss.training.progress import Progress, WarningLines
from davss.training.separation import (
    MIXTURES_AT_A_TIME,
    SAMPLES,
    sample_figures,
    separation_figures,
    unconditional,
)
from davss.training.validation import examples, validate

log = logging.getLogger(__name__)

MAX_BAD_STEPS = 10  # non-finite steps in a row before the run is given up


@dataclass
class Averages:
    """Means of figures since they were last taken."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, figures: dict[str, float]) -> None:
        """Add the figures of one step."""
        self.count += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """Means by name; starts anew."""
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


class Reporter:
    """Keeps the record of a run; every worker has one, but only rank 0 writes.

    `best_validation`, `history` and the checkpoints of `state` are its business.
    """

    def __init__(self, job: TrainingJob, worker: Worker, state: TrainingState) -> None:
        self.job, self.worker, self.state = job, worker, state
        self.config = job.config.training
        self.since_validation, self.since_line = Averages(), Averages()
        self.progress, self.handler = None, None
        if worker.rank == 0:
            job.state.mkdir(parents=True, exist_ok=True)
            total, seen = self.config.total_samples, state.samples_seen
            if job.mirror:
                job.mirror.receive(job.log_file.name)
            self.progress = Progress(job.log_file, job.name, total, seen, mirror=job.mirror)
            self.handler = WarningLines(self.progress)
            logging.getLogger("davss").addHandler(self.handler)
            if seen:
                self.progress.say(f"goes on from {seen} samples")
        self.clips = job.validation_clips()
        self.mixtures = job.validation_mixtures(self.clips) if job.validation_mixtures else None
        if self.progress and self.config.separate_every and self.mixtures is None:
            self.progress.say("separates nothing: no training.validation_speech_prior is given")
        self.tracker = tracking.Tracker(job.tracking, job.state, worker.rank)

    def after_step(self, loss: float, grad_norm: float, rate: float, bad_steps: int) -> None:
        """Count one step (`bad_steps` in a row were not finite); validate and save where due."""
        seen, batch = self.state.samples_seen, self.config.global_batch_size
        step = {"train/loss": loss, "train/grad_norm": grad_norm}
        if bad_steps:
            self._complain(step, bad_steps)
        else:
            self.since_validation.add(step)
            self.since_line.add(step)
        self.tracker.log(seen, {**step, "train/learning_rate": rate})
        last = seen >= self.config.total_samples
        if last or _crosses(seen, batch, self.config.validate_every):
            self._validate(rate)
        if last or _crosses(seen, batch, self.config.checkpoint_every):
            self.save()
        if self.progress and self.since_line.count and (last or self.progress.due()):
            self.progress.update(seen, self.since_line.take()["train/loss"])

    def save(self) -> None:
        """Write a checkpoint, on rank 0."""
        if self.worker.rank == 0:
            keep = self.config.keep_checkpoints
            checkpoint.save(self.state.state_dict(), self.job.checkpoints, keep)
            self.job.push_checkpoints()

    def close(self) -> None:
        """Finish the tracker and stop listening to warnings."""
        self.tracker.finish()
        if self.worker.rank == 0 and self.job.mirror:
            self.job.mirror.push("wandb")
        if self.handler:
            logging.getLogger("davss").removeHandler(self.handler)

    def _complain(self, step: dict[str, float], bad_steps: int) -> None:
        where = f"{self.state.samples_seen} samples"
        log.warning("step at %s skipped: not finite: %s", where, step)
        if bad_steps >= MAX_BAD_STEPS:
            raise DavssError(
                f"training of {self.job.name}: {bad_steps} steps in a row were not finite at "
                f"{where}; lower training.learning_rate. The last good state is the newest in "
                f"{self.job.checkpoints}"
            )

    def _validate(self, rate: float) -> None:
        """Losses of the EMA weights on held-out clips, for history, W&B and progress line."""
        prior = self.state.ema.module
        losses = validate(
            prior,
            self.clips,
            self.job.config.diffusion.sigma_data,
            batch_size=self._batch(self.config.global_batch_size // self.worker.world_size),
            rank=self.worker.rank,
            world_size=self.worker.world_size,
        )
        seen = self.state.samples_seen
        if self._separation_due():
            losses |= self._separate()
        self.state.best_validation = min(self.state.best_validation, losses["valid/loss"])
        train = {"train/loss": math.nan, "train/grad_norm": math.nan}
        train |= self.since_validation.take()
        row = {"train/samples_seen": seen, **train, "train/learning_rate": rate, **losses}
        self.state.history.append(row)
        if self.progress:
            self.progress.valid = losses["valid/loss"]
            self.tracker.log(seen, losses)
            self.tracker.log_audio(seen, examples(prior, self.clips), self.job.sample_rate)

    def _batch(self, size: int) -> int:
        """`size`, or as many as this worker may compute at a time."""
        return min(size, self.config.max_batch_per_worker or size)

    def _separation_due(self) -> bool:
        """Whether a multiple of separate_every, or the end, has come since the last validation."""
        every, seen, history = (
            self.config.separate_every,
            self.state.samples_seen,
            self.state.history,
        )
        if not every:
            return False
        previous = int(history[-1]["train/samples_seen"]) if history else 0
        return seen >= self.config.total_samples or seen // every > previous // every

    def _separate(self) -> dict[str, float]:
        """Figures of a small separation and of sounds that the prior makes up."""
        prior = self.state.ema.module
        assert isinstance(prior, SpeechPrior | NoisePrior)
        figures: dict[str, float] = {}
        if self.progress:  # rank 0
            steps = self.config.validation_sampler_steps
            samples = unconditional(prior, self.clips.audio.shape[-1], steps, self._batch(SAMPLES))
            figures = sample_figures(samples, self.job.config.diffusion.sigma_data)
            signals = {str(number): sample for number, sample in enumerate(samples)}
            seen, rate = self.state.samples_seen, self.job.sample_rate
            self.tracker.log_audio(seen, signals, rate, panel="samples")
        if self.mixtures is not None:
            figures |= separation_figures(
                prior,
                self.mixtures,
                self.config.validation_sampler_steps,
                batch_size=self._batch(MIXTURES_AT_A_TIME),
                rank=self.worker.rank,
                world_size=self.worker.world_size,
            )
        return figures


def _crosses(seen: int, batch: int, every: int) -> bool:
    """Whether the last batch reached a multiple of `every` samples."""
    return seen // every > (seen - batch) // every
