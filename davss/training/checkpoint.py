"""Training checkpoints: one list of what they hold, atomic saves, the newest valid one read back.

A checkpoint is a file `checkpoint-<samples seen>-<first 12 digits of its sha256>.pt` of tensors and
plain values (read with `weights_only=True`: no pickled code). It is complete when it has that name:
it is written to a temporary file, synced, and renamed; a file whose content does not match its name
is skipped with a warning.

The one with the best validation loss stays besides as `best-….pt`, if one was saved at the step
that was validated. Random numbers and the position in the shards need no entry: both follow from
the seed and the samples seen (davss/shards/loader.py).
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from davss.diffusion.denoiser import Denoiser
from davss.errors import DavssError
from davss.storage import publish, sha256
from davss.training.ema import Ema

log = logging.getLogger(__name__)

FORMAT_VERSION = 2  # 1, without a number, had a loader that did not go on where it was
_NAME = re.compile(r"(?:checkpoint|best)-(\d{12})-([0-9a-f]{12})\.pt")


@dataclass
class TrainingState:
    """Everything a run needs to go on: what `state_dict` lists is what a checkpoint contains."""

    prior: Denoiser
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


def save(state: dict[str, Any], folder: Path, keep: int = 2) -> Path:
    """Write `state` (a `state_dict`) into `folder`, atomically; keep the last ones and the best."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".checkpoint-{uuid.uuid4().hex[:8]}"  # mkstemp's nobody else could read
    try:
        with open(temporary, "xb") as file:
            torch.save({"format_version": FORMAT_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        content = sha256(temporary)[:12]
        path = folder / f"checkpoint-{state['samples_seen']:012d}-{content}.pt"
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise DavssError(
            f"{folder}: cannot save a checkpoint ({error}); free some space and run again to go on "
            f"from {newest_name(folder)}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(folder)
    if _is_best(state):
        _keep_as_best(path)
    _prune(folder, path, keep)
    return path


def load_newest(folder: Path, samples: int | None = None) -> dict[str, Any] | None:
    """The newest valid checkpoint in `folder`, or that after so many samples, on the CPU; None
    where there is none.

    Raises DavssError for one of another format.
    """
    # The best one is the last resort where it is the newest that is whole.
    for path in sorted(_all(folder), key=_samples_seen, reverse=True):
        if samples not in (None, _samples_seen(path)):
            continue
        match = _NAME.fullmatch(path.name)
        if match and sha256(path)[:12] == match[2]:
            return _read(path)
        log.warning("%s: damaged checkpoint, skipped", path)
    return None


def _read(path: Path) -> dict[str, Any]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    version = state.get("format_version", 1)
    if version != FORMAT_VERSION:
        raise DavssError(
            f"{path}: a checkpoint of format {version}, this davss reads {FORMAT_VERSION}; go on "
            "with the davss that wrote it, or move it away to train anew"
        )
    return state


def _listed(folder: Path, kind: str = "checkpoint") -> list[Path]:
    """Checkpoints of a kind, the newest last."""
    return sorted(path for path in folder.glob(f"{kind}-*.pt") if _NAME.fullmatch(path.name))


def _all(folder: Path) -> list[Path]:
    return [*_listed(folder), *_listed(folder, "best")]


def _samples_seen(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def samples_seen(folder: Path) -> int:
    """Samples seen by the newest checkpoint in `folder`, by its name alone; 0 without one."""
    return max(kept(folder), default=0)


def kept(folder: Path) -> list[int]:
    """Samples seen by each checkpoint in `folder`, by their names alone, ascending."""
    return sorted({_samples_seen(path) for path in _all(folder)})


def newest_name(folder: Path) -> str:
    """The newest checkpoint in `folder` by name, for messages."""
    names = [path.name for path in _listed(folder)]
    return names[-1] if names else "the start"


def _is_best(state: dict[str, Any]) -> bool:
    """Whether this very state was validated, and none before it was better."""
    last = state["history"][-1] if state.get("history") else {}
    validated = last.get("train/samples_seen") == state["samples_seen"]
    return validated and last.get("valid/loss", math.inf) <= state["best_validation"]


def _keep_as_best(path: Path) -> None:
    best = path.with_name(path.name.replace("checkpoint-", "best-"))
    with publish(best) as temporary:
        try:
            os.link(path, temporary)  # the same file by another name takes no space
        except OSError:  # some shared file systems have no links
            shutil.copyfile(path, temporary)
    for other in _listed(path.parent, "best"):
        if other != best:
            other.unlink(missing_ok=True)


def _prune(folder: Path, newest: Path, keep: int) -> None:
    """Remove old checkpoints and the leftovers of killed saves; never the one just written."""
    older = [path for path in _listed(folder) if path != newest]
    for path in older[: max(len(older) - (keep - 1), 0)]:
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
