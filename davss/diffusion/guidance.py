"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598; DAVSS-NM uses weight 0.5), all
branches in one network call.

Shapes: B batch · K sources · T samples · V video frames · D visual feature size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from davss.diffusion.prior import SpeechPrior


def guided_denoise(
    prior: SpeechPrior, u: Tensor, sigma: Tensor, lips: Tensor | None, weight: float, form: str
) -> Tensor:
    """Denoised speech, guided by lips: u (B, K, T), sigma (B,) → (B, K, T), in one network call.

    lips: (B, L, V, D) of the first L ≤ K sources, or None; the others have the null condition
    (off-screen speakers).
    form "extrapolate": (1+w)·D(u; V) − w·D(u; ∅), w = 0 the plain conditional model;
    form "interpolate": w·D(u; V) + (1−w)·D(u; ∅), w = 1 the same, w < 1 weakens the lips.
    A branch whose coefficient is zero is not computed.
    """
    conditional = 1 + weight if form == "extrapolate" else weight
    if lips is None or conditional == 0:
        return prior(u.flatten(0, 1), sigma.repeat_interleave(u.shape[1])).view_as(u)
    num_lips = lips.shape[1]
    seen = u[:, :num_lips]
    unseen = u[:, num_lips:] if conditional == 1 else u
    both = torch.cat([seen.flatten(0, 1), unseen.flatten(0, 1)])
    levels = torch.cat([sigma.repeat_interleave(part.shape[1]) for part in (seen, unseen)])
    num_seen = seen.shape[0] * num_lips
    has_lips = torch.arange(len(both), device=u.device) < num_seen
    padding = (0, 0, 0, 0, 0, len(both) - num_seen)
    denoised = prior(both, levels, F.pad(lips.flatten(0, 1), padding), has_lips)
    with_lips, without = denoised[:num_seen].view_as(seen), denoised[num_seen:].view_as(unseen)
    if conditional == 1:
        return torch.cat([with_lips, without], dim=1)
    guided = conditional * with_lips + (1 - conditional) * without[:, :num_lips]
    return torch.cat([guided, without[:, num_lips:]], dim=1)
