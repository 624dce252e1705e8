"""How a draw went, step by step, and which items stopped making sense.

Shapes: N steps · B batch · M sources · T samples.
"""

import torch
from torch import Tensor

from davss.posterior.steps import SIGMA_DATA, Callback, Step

# No source is as loud as both of these unless its sampler has run away.
LOUD = 100.0 * SIGMA_DATA
BEYOND = 2.0  # times the peak of the mixture, which a click in silence has above LOUD
ITEMS = ("likelihood", "prior_step", "likelihood_step")  # those with a dimension of items


class Trace:
    """A callback that records the first draw and notices items that diverge. What it keeps stays
    where it was computed until it is asked for, so that no step waits for a GPU.

    peaks: (B,) of the mixtures, as loud as the sampler gets them.
    """

    def __init__(self, num_steps: int, peaks: Tensor, callback: Callback | None = None) -> None:
        self.num_steps, self.callback = num_steps, callback
        self.loudest = (BEYOND * peaks).clamp_min(LOUD)
        self.sigmas: list[float] = []
        self.steps: list[tuple[Tensor, ...]] = []  # what ITEMS names
        self.sane: list[Tensor] = []  # (B,) of every step of every draw

    def __call__(self, step: Step) -> None:
        if len(self.steps) < self.num_steps:
            self.sigmas.append(step.sigma)
            self.steps.append((step.likelihood, step.prior_step, step.likelihood_step))
        # NaN compares as not below the limit
        self.sane.append(step.denoised.abs().amax(dim=(1, 2)) < self.loudest)
        if self.callback:
            self.callback(step)

    def diverged(self) -> dict[int, int]:
        """Items that diverged, each with its first bad step."""
        bad = ~torch.stack(self.sane, dim=1).cpu()
        return {
            item: int(steps.nonzero()[0]) % self.num_steps
            for item, steps in enumerate(bad)
            if steps.any()
        }

    def explain(self, step: int, sampler: str) -> str:
        """What a second try that diverged at `step` comes to, and the mend."""
        dps = sampler == "dps"  # the others have no ζ
        change = "with half of zeta" if dps else "with other random numbers"
        mends = {
            "dps": "raise num_steps or lower zeta",
            "daps": "try other priors or another noise model",  # no step of it can be too long
        }
        return (
            f"the sampler diverged at step {step} of {self.num_steps} (sigma "
            f"{self.sigmas[step]:.2g}), also at its second try {change}; "
            f"{mends.get(sampler, 'raise num_steps')}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """On the CPU: sigma (N,), likelihood (N, B), prior_step and likelihood_step (N, B, M)."""
        columns = zip(ITEMS, zip(*self.steps, strict=True), strict=True)
        found = {name: torch.stack(values).cpu() for name, values in columns}
        return {"sigma": torch.tensor(self.sigmas), **found}


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
