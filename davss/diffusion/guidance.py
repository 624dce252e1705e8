"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598), all branches in one network call:

    D_i = (1 + w) D(u_i; σ, V_i) − w D(u_i; σ, ∅)

w = 0 is the plain conditional model; DAVSS-NM uses w = 0.5 (docs/method.md §3).

Shapes: B batch · K sources · L ≤ K sources with lips · T samples · V video frames ·
D visual feature size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from davss.config import SamplerConfig
from davss.diffusion.prior import SpeechPrior


@dataclass(frozen=True)
class Branches:
    """Signals that the speech network sees per item and call."""

    lips: int  # sources given their lips
    null: int  # the last so many sources under the null condition

    @property
    def total(self) -> int:
        """All of them."""
        return self.lips + self.null


def plan_branches(num_speakers: int, num_lips: int, config: SamplerConfig) -> Branches:
    """Branches for sources of which the first `num_lips` have lips, the others being off-screen;
    one whose coefficient is zero is not computed.
    """
    if config.guidance_weight == 0 or num_lips == 0:
        return Branches(num_lips, num_speakers - num_lips)
    return Branches(num_lips, num_speakers)


class GuidedSpeech:
    """Denoiser of all K speech sources of a batch, (u (B, K, T), sigma (B,)) → (B, K, T); sigma may
    be the variances (B, K, F, N) of noise that is coloured.

    lips: (B, L, V, D) of the first L sources, or None; frames that are NaN are not seen and get
    the null condition; shape: (B, K, T). What the network makes of the lips is computed here, once
    for all steps and draws.
    Raises DavssError for lips that are not the prior's.
    """

    def __init__(
        self,
        prior: SpeechPrior,
        lips: Tensor | None,
        shape: tuple[int, int, int],
        config: SamplerConfig,
    ) -> None:
        batch, num_speakers, num_samples = shape
        num_lips = lips.shape[1] if lips is not None else 0
        self.prior, self.weight = prior, config.guidance_weight
        self.branches = plan_branches(num_speakers, num_lips, config)
        seen, null = batch * self.branches.lips, batch * self.branches.null
        with torch.no_grad():
            if lips is None or seen == 0:
                self.modulations = prior.condition(None, num_samples)
            else:
                padded = F.pad(lips.flatten(0, 1), (0, 0, 0, 0, 0, null))
                has_lips = (torch.arange(seen + null, device=lips.device) < seen)[:, None]
                has_lips = has_lips & padded.isfinite().all(-1)
                self.modulations = prior.condition(padded, num_samples, has_lips)

    def __call__(self, u: Tensor, sigma: Tensor) -> Tensor:
        num_lips, num_null = self.branches.lips, self.branches.null
        first_null = u.shape[1] - num_null
        parts = [u[:, :num_lips], u[:, first_null:]]
        both = torch.cat([part.flatten(0, 1) for part in parts])
        each = sigma[:, None].expand(-1, u.shape[1]) if sigma.ndim == 1 else sigma
        levels = torch.cat([x.flatten(0, 1) for x in (each[:, :num_lips], each[:, first_null:])])
        denoised = self.prior(both, levels, self.modulations)
        denoised = denoised.split([len(u) * num_lips, len(u) * num_null])
        with_lips, without = (d.view_as(part) for d, part in zip(denoised, parts, strict=True))
        if num_lips + num_null == u.shape[1]:
            return torch.cat([with_lips, without], dim=1)
        null, without = without.tensor_split([num_lips], dim=1)
        guided = (1 + self.weight) * with_lips - self.weight * null
        return torch.cat([guided, without], dim=1)
