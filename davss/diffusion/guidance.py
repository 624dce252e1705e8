"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598; DAVSS-NM uses weight 0.5), all
branches in one network call.

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


def lips_weight(config: SamplerConfig) -> float:
    """Coefficient of the branch with lips; the null branch has what is missing to one.

    form "extrapolate": (1+w)·D(u; V) − w·D(u; ∅), w = 0 the plain conditional model;
    form "interpolate": w·D(u; V) + (1−w)·D(u; ∅), w = 1 the same, w < 1 weakens the lips.
    """
    w = config.guidance_weight
    return 1 + w if config.guidance_form == "extrapolate" else w


def plan_branches(num_speakers: int, num_lips: int, config: SamplerConfig) -> Branches:
    """Branches for sources of which the first `num_lips` have lips, the others being off-screen;
    one whose coefficient is zero is not computed.
    """
    weight = lips_weight(config)
    if weight == 0:
        num_lips = 0
    if weight == 1 or num_lips == 0:
        return Branches(num_lips, num_speakers - num_lips)
    return Branches(num_lips, num_speakers)


class GuidedSpeech:
    """Denoiser of all K speech sources of a batch, (u (B, K, T), sigma (B,)) → (B, K, T).

    lips: (B, L, V, D) of the first L sources, or None; shape: (B, K, T). What the network makes of
    the lips is computed here, once for all steps.
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
        self.prior, self.weight = prior, lips_weight(config)
        self.branches = plan_branches(num_speakers, num_lips, config)
        seen, null = batch * self.branches.lips, batch * self.branches.null
        with torch.no_grad():
            if lips is None or seen == 0:
                self.modulations = prior.condition(None, None, null, num_samples)
            else:
                padded = F.pad(lips.flatten(0, 1), (0, 0, 0, 0, 0, null))
                has_lips = torch.arange(seen + null, device=lips.device) < seen
                self.modulations = prior.condition(padded, has_lips, seen + null, num_samples)

    def __call__(self, u: Tensor, sigma: Tensor) -> Tensor:
        num_lips, num_null = self.branches.lips, self.branches.null
        parts = [u[:, :num_lips], u[:, u.shape[1] - num_null :]]
        both = torch.cat([part.flatten(0, 1) for part in parts])
        levels = torch.cat([sigma.repeat_interleave(part.shape[1]) for part in parts])
        denoised = self.prior(both, levels, modulations=self.modulations)
        denoised = denoised.split([len(u) * num_lips, len(u) * num_null])
        with_lips, without = (d.view_as(part) for d, part in zip(denoised, parts, strict=True))
        if self.weight == 1 or num_lips == 0:
            return torch.cat([with_lips, without], dim=1)
        null, without = without.tensor_split([num_lips], dim=1)
        guided = self.weight * with_lips + (1 - self.weight) * null
        return torch.cat([guided, without], dim=1)
