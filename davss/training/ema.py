"""Exponential moving average (EMA) of a prior's weights, for sampling (docs/method.md §2)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A frozen copy of `module` whose parameters follow the trained ones.

    The decay ramps up, min(decay, (1 + n) / (10 + n)) after n updates, so that the random start is
    forgotten early. `module` must be the inner module, not its DDP wrapper. `ema.module` is in eval
    mode and takes no gradient.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    def current_decay(self) -> float:
        """Decay that the next update will use."""
        return min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average a step towards the parameters of `module`; buffers are copied."""
        averages: list[Tensor] = list(self.module.parameters())
        currents: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(averages, currents, 1 - self.current_decay())
        for average, current in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(current)
        self.num_updates += 1

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the weights of `module` with the average."""
        module.load_state_dict(self.module.state_dict())

    def state_dict(self) -> dict:
        """Weights of the average and the number of updates so far."""
        return {"module": self.module.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict()` of an earlier run."""
        self.module.load_state_dict(state["module"])
        self.num_updates = state["num_updates"]
