"""Which trials are separated together, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from davss.diffusion.guidance import plan_branches
from davss.evaluation.mixtures import IN_VIEW
from davss.evaluation.trials import UNTRAINED, Trial
from davss.posterior.sampling import GRADIENT_SAMPLERS, evaluations


def batches_of(trials: Sequence[Trial], batch_size: int, num_actors: int) -> list[list[Trial]]:
    """Trials that can be stacked; the costliest batches first, so that none comes last."""
    groups: dict[Any, list[Trial]] = {}
    for trial in trials:
        row = trial.row
        shape = row["num_speakers"], row["pool"].count(IN_VIEW), row["seconds"], row["sample_rate"]
        groups.setdefault((trial.arm.name, *shape), []).append(trial)
    batches = []
    for group in groups.values():
        # Few trials: smaller batches, so that all actors have work.
        size = max(1, min(batch_size, -(-len(group) // num_actors)))
        batches += [group[start : start + size] for start in range(0, len(group), size)]
    return sorted(batches, key=lambda batch: -sum(map(passes, batch)))


def passes(trial: Trial) -> int:
    """What a trial costs in forward passes of one source through a network; a gradient counts as
    two more, a peer nothing.
    """
    sampler, row = trial.arm.sampler, trial.row
    if sampler is None:
        return 0
    seen = row["pool"].count(IN_VIEW) if trial.arm.lips != "none" else 0
    signals = plan_branches(row["num_speakers"], seen, sampler).total
    signals += trial.arm.noise not in UNTRAINED
    return evaluations(sampler) * signals * (3 if sampler.name in GRADIENT_SAMPLERS else 1)
