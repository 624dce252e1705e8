"""Training checkpoints: one list of what they hold, atomic saves, the newest valid one read back.

A checkpoint is a file `checkpoint-<samples seen>-<first 12 digits of its sha256>.pt` of tensors and
plain values (read with `weights_only=True`: no pickled code). It is complete when it has that name:
it is written to a temporary file, synced, and renamed; a file whose content does not match its name
is skipped with a warning.

Random numbers need no entry: every step seeds its generator from (seed, samples seen, rank).
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from davss.errors import DavssError
from davss.storage import sha256
from davss.training.ema import Ema

log = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d{12})-([0-9a-f]{12})\.pt")
_KEEP = 2


@dataclass
class TrainingState:
    """Everything a run needs to go on: what `state_dict` lists is what a checkpoint contains."""

    prior: nn.Module
    optimiser: torch.optim.Optimizer
    ema: Ema
    samples_seen: int = 0
    seconds: float = 0.0
    best_validation: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint."""
        return {
            "prior": self.prior.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
            "samples_seen": self.samples_seen,
            "seconds": self.seconds,
            "best_validation": self.best_validation,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the content of a checkpoint."""
        self.prior.load_state_dict(state["prior"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema.load_state_dict(state["ema"])
        self.samples_seen = state["samples_seen"]
        self.seconds = state["seconds"]
        self.best_validation = state["best_validation"]
        self.history = list(state["history"])


def save(state: dict[str, Any], folder: Path) -> Path:
    """Write `state` (with its `samples_seen`) into `folder`, atomically; keep the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".checkpoint-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        content = sha256(temporary)[:12]
        path = folder / f"checkpoint-{state['samples_seen']:012d}-{content}.pt"
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise DavssError(
            f"{folder}: cannot save a checkpoint ({error}); free some space and run again to go on "
            "from the last one"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(folder)
    _prune(folder, keep=path)
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest valid checkpoint in `folder`, on the CPU; None where there is none."""
    for path in reversed(_listed(folder)):
        match = _NAME.fullmatch(path.name)
        if match and sha256(path)[:12] == match[2]:
            return torch.load(path, map_location="cpu", weights_only=True)
        log.warning("%s: damaged checkpoint, skipped", path)
    return None


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("checkpoint-*.pt") if _NAME.fullmatch(path.name))


def _prune(folder: Path, keep: Path) -> None:
    """Remove old checkpoints and the leftovers of killed saves; never the one just written."""
    older = [path for path in _listed(folder) if path != keep]
    for path in older[: len(older) - (_KEEP - 1)]:
        path.unlink(missing_ok=True)
    for leftover in folder.glob(".checkpoint-*"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
