"""Power-function averages of weights, and any length of average after training.

Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, arXiv 2312.02696,
section 3 and appendix C. The average of length σ_rel after t steps weighs the weights of step τ by

    p(τ) = (γ + 1) τ^γ / t^(γ+1),   0 < τ ≤ t,

σ_rel being the standard deviation of p relative to t. A few lengths are tracked in training and
stored now and then; the average of another length is the least-squares mix of what was stored.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from davss.errors import DavssError
from davss.storage import publish

_NAME = re.compile(r"snapshot-(\d{12})-([0-9.]+)\.safetensors")


def gamma_of(sigma_rel: float) -> float:
    """The exponent γ whose profile has relative length `sigma_rel`, 0 < σ_rel < 0.2886.

    σ_rel² = (γ + 1) / ((γ + 2)² (γ + 3)), solved for its largest root.
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise DavssError(f"sigma_rel = {sigma_rel}: lengths are above 0 and below 0.288")
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerEma:
    """Averages of the parameters of a module, one for each of `sigma_rels`; buffers are copied."""

    def __init__(self, module: nn.Module, sigma_rels: Sequence[float]) -> None:
        self.gammas = {sigma_rel: gamma_of(sigma_rel) for sigma_rel in sigma_rels}
        self.num_updates = 0
        self.modules = {
            sigma_rel: copy.deepcopy(module).eval().requires_grad_(False)
            for sigma_rel in sigma_rels
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one more step into every average: its weight is 1 − (1 − 1/t)^(γ+1)."""
        self.num_updates += 1
        currents: list[Tensor] = list(module.parameters())
        for sigma_rel, average in self.modules.items():
            weight = 1 - (1 - 1 / self.num_updates) ** (self.gammas[sigma_rel] + 1)
            torch._foreach_lerp_(list(average.parameters()), currents, weight)
            for old, new in zip(average.buffers(), module.buffers(), strict=True):
                old.copy_(new)

    def save_snapshots(self, folder: Path) -> None:
        """Write every average to `folder`, one file each, named by updates and length."""
        for sigma_rel, average in self.modules.items():
            with publish(folder / f"snapshot-{self.num_updates:012d}-{sigma_rel}.safetensors") as p:
                save_file({k: v.cpu().contiguous() for k, v in average.state_dict().items()}, p)

    def state_dict(self) -> dict:
        """Weights of all averages and the number of updates so far."""
        modules = {sigma_rel: module.state_dict() for sigma_rel, module in self.modules.items()}
        return {"modules": modules, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict()` of an earlier run."""
        for sigma_rel, module in self.modules.items():
            module.load_state_dict(state["modules"][sigma_rel])
        self.num_updates = state["num_updates"]


@dataclass(frozen=True)
class Snapshot:
    """A stored average: its file, updates so far, and length."""

    path: Path
    num_updates: int
    sigma_rel: float


def find_snapshots(folder: Path, until: int | None = None) -> list[Snapshot]:
    """The snapshots in `folder`, of at most `until` updates, oldest first."""
    found = []
    for path in sorted(folder.glob("snapshot-*.safetensors")):
        match = _NAME.fullmatch(path.name)
        if match and (until is None or int(match[1]) <= until):
            found.append(Snapshot(path, int(match[1]), float(match[2])))
    return found


def reconstruct(snapshots: Sequence[Snapshot], sigma_rel: float) -> dict[str, Tensor]:
    """Weights of the average of length `sigma_rel` at the newest snapshot's step.

    Raises DavssError where there is no snapshot.
    """
    if not snapshots:
        raise DavssError("no snapshots of averages; set training.ema_sigma_rels and train again")
    weights = mixing_weights(
        [(snapshot.num_updates, gamma_of(snapshot.sigma_rel)) for snapshot in snapshots],
        (max(snapshot.num_updates for snapshot in snapshots), gamma_of(sigma_rel)),
    )
    total: dict[str, Tensor] = {}
    for snapshot, weight in zip(snapshots, weights, strict=True):
        for name, value in load_file(snapshot.path).items():
            share = value.double() * weight if value.is_floating_point() else value
            old = total.get(name)
            total[name] = share if old is None or not value.is_floating_point() else old + share
    return {
        name: value.float() if value.is_floating_point() else value for name, value in total.items()
    }


def mixing_weights(
    profiles: Iterable[tuple[float, float]], target: tuple[float, float]
) -> np.ndarray:
    """Weights x that minimise ‖Σ x_i p_i − p‖² for profiles (t, γ); they sum to about 1."""
    profiles = list(profiles)
    gram = np.array([[_inner(a, b) for b in profiles] for a in profiles])
    right = np.array([_inner(profile, target) for profile in profiles])
    return np.linalg.lstsq(gram, right, rcond=None)[0]


def _inner(a: tuple[float, float], b: tuple[float, float]) -> float:
    """∫ p_a p_b: (γ_a + 1)(γ_b + 1) (t_a / t_b)^γ_b / ((γ_a + γ_b + 1) t_b) for t_a ≤ t_b."""
    (t_a, gamma_a), (t_b, gamma_b) = sorted((a, b))
    ratio = math.exp(gamma_b * (math.log(t_a) - math.log(t_b)))
    return (gamma_a + 1) * (gamma_b + 1) * ratio / ((gamma_a + gamma_b + 1) * t_b)
