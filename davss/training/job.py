"""What a training run is: the job, which all workers share, and a worker's place among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from davss.config import PriorConfig
from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.shards.loader import Batch
from davss.storage.mirror import Mirror
from davss.training.separation import ValidationMixtures
from davss.training.tracking import TrackingConfig
from davss.training.validation import ValidationClips


@dataclass(frozen=True)
class TrainingJob:
    """What to train and from what; can be pickled, and is the same for every worker.

    `training_batches(samples_seen=, rank=, world_size=)` yields this worker's part of every global
    batch; `validation_clips`, `validation_mixtures` (None: no separation) and `build_prior` are
    called once in every worker.
    `state` is the folder for checkpoints, logs and W&B files; where nodes share none, each has its
    own there, and `mirror` keeps it in the storage.
    """

    name: str
    config: PriorConfig
    seed: int
    sample_rate: int
    state: Path
    build_prior: Callable[[], SpeechPrior | NoisePrior]
    training_batches: Callable[..., Iterator[Batch]]
    validation_clips: Callable[[], ValidationClips]
    validation_mixtures: Callable[[ValidationClips], ValidationMixtures] | None = None
    tracking: TrackingConfig = TrackingConfig()
    mirror: Mirror | None = None

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints of the run lie."""
        return self.state / "checkpoints"

    def pull_checkpoints(self) -> None:
        """Have the checkpoints here that the storage has."""
        if self.mirror:
            self.mirror.pull(self.checkpoints.name)

    def push_checkpoints(self) -> None:
        """Have the storage keep the checkpoints that are here, and drop older ones that went."""
        if self.mirror:
            self.mirror.push(self.checkpoints.name)
            here = {path.name for path in self.checkpoints.iterdir()}
            for name in self.mirror.names(self.checkpoints.name):
                # One that is newer than all of its kind here is another worker's, who goes on.
                kind = name.partition("-")[0]
                if name not in here and name < max(n for n in {name, *here} if n.startswith(kind)):
                    self.mirror.remove(f"{self.checkpoints.name}/{name}")

    @property
    def log_file(self) -> Path:
        """Where the progress of the run is written."""
        return self.state / "train.log"


@dataclass(frozen=True)
class Worker:
    """Which worker this is, and where it computes."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
