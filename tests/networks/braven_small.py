"""A small BRAVEn with golden weights, saved as public checkpoints are."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.networks import golden

DATA = Path(__file__).parents[1] / "data"


def public_weights() -> dict[str, torch.Tensor]:
    """Weights of an encoder of 64 features, as anyone can make them again."""
    keys = json.loads((DATA / "braven_small.keys.json").read_text())
    return {name: weight(name, shape) for name, shape in keys.items()}


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """The golden value of one parameter or statistic of a BatchNorm."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    values = golden.weight(name, shape)
    return values.abs() + 1 if name.endswith("running_var") else values


def write_checkpoint(path: Path) -> Path:
    """The encoder within a fine-tuned model, as the authors publish them."""
    weights = {f"encoder.{name}": value.float() for name, value in public_weights().items()}
    weights |= {"decoder.embed.0.weight": torch.zeros(3), "ctc.ctc_lo.bias": torch.zeros(3)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, path)
    return path
