"""How a draw went, step by step, and which items stopped making sense.

Shapes: N steps · B batch · M sources · T samples.
"""

import torch
from torch import Tensor

from davss.posterior.steps import Callback, Step

LOUD = 100.0  # times sigma_data: no source is that loud unless its sampler has run away


class Trace:
    """A callback that records the first draw and notices items that diverge."""

    def __init__(self, num_steps: int, sigma_data: float, callback: Callback | None = None) -> None:
        self.num_steps, self.limit, self.callback = num_steps, LOUD * sigma_data, callback
        self.steps: list[tuple[float, Tensor, Tensor, Tensor]] = []
        self.diverged: dict[int, tuple[int, float]] = {}

    def __call__(self, step: Step) -> None:
        if len(self.steps) < self.num_steps:
            likelihood, move, pull = step.likelihood, step.prior_step, step.likelihood_step
            self.steps.append((step.sigma, likelihood.cpu(), move.cpu(), pull.cpu()))
        # NaN compares as not below the limit
        sane = (step.denoised.abs().amax(dim=(1, 2)) < self.limit).tolist()
        for item in (b for b, good in enumerate(sane) if not good):
            self.diverged.setdefault(item, (step.step, step.sigma))
        if self.callback:
            self.callback(step)

    def explain(self, item: int, sampler: str) -> str:
        """Where an item diverged at its second try, and the mend."""
        step, sigma = self.diverged[item]
        dps = sampler == "dps"  # the others have no ζ
        change = "with half of zeta" if dps else "with other random numbers"
        mend = "raise num_steps or lower zeta" if dps else "raise num_steps"
        return (
            f"the sampler diverged at step {step} of {self.num_steps} (sigma {sigma:.2g}), also "
            f"at its second try {change}; {mend}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """sigma (N,), likelihood (N, B), prior_step and likelihood_step (N, B, M)."""
        sigma, likelihood, prior_step, likelihood_step = zip(*self.steps, strict=True)
        return {
            "sigma": torch.tensor(sigma),
            "likelihood": torch.stack(likelihood),
            "prior_step": torch.stack(prior_step),
            "likelihood_step": torch.stack(likelihood_step),
        }


ITEMS = ("likelihood", "prior_step", "likelihood_step")  # those with a dimension of items


def replace_items(trace: dict[str, Tensor], items: list[int], other: dict[str, Tensor]) -> None:
    """Put another trace of some items in the place of theirs."""
    for name in ITEMS:
        trace[name][:, items] = other[name]


def average(traces: list[tuple[dict[str, Tensor], int]]) -> dict[str, Tensor]:
    """One item's trace from those of the batches that its windows were in, (trace, index) each;
    what is not finite, of a window that diverged, does not count.
    """
    means = {}
    for name in ITEMS:
        windows = torch.stack([trace[name][:, index] for trace, index in traces])
        means[name] = windows.masked_fill(~windows.isfinite(), torch.nan).nanmean(dim=0)
    return {"sigma": traces[0][0]["sigma"], **means}
