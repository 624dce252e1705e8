"""FiLM: lip features modulate feature maps at every resolution of NCSN++ (DAVSS-NM §III;
docs/method.md §7).

Shapes: B batch · V video frames · D visual feature size · C channels · F bins · N frames of a
level.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from davss.errors import DavssError

HIDDEN = 256
Modulations = list[tuple[Tensor, Tensor]]  # per site γ and β, each (B or 1, C, 1, N)


class FiLM(nn.Module):
    """Scales and shifts for every conditioned feature map: h ← (1 + γ) h + β, zero at
    initialisation.

    `channels[s]` and `levels[s]` give the channels and the resolution level of site s. Lips that
    are absent are a learned D-vector repeated over time, which is what classifier-free guidance
    calls the null condition.
    """

    def __init__(self, lips_dim: int, channels: list[int], levels: list[int]) -> None:
        super().__init__()
        self.levels = levels
        self.null_lips = nn.Parameter(0.02 * torch.randn(lips_dim))
        self.norm = nn.LayerNorm(lips_dim)
        self.project = nn.Linear(lips_dim, HIDDEN)
        self.sites = nn.ModuleList(nn.Conv1d(HIDDEN, 2 * c, 1) for c in channels)
        for parameter in self.sites.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, lips: Tensor | None, has_lips: Tensor | None, frames: int, padded: int
    ) -> Modulations:
        """(B, V, D) lips and bool which of them there are, (B,) or of every frame (B, V), None: all
        → per site γ and β, each (B, C, 1, padded frames of the level); of lips None one for all,
        B = 1.

        `frames` counts the valid STFT frames at full resolution, `padded` those after padding.
        Raises DavssError for lips of another size.
        """
        hidden = self._embed(lips, has_lips)
        resampled: dict[int, Tensor] = {}
        modulations: Modulations = []
        for site, level in zip(self.sites, self.levels, strict=True):
            if level not in resampled:
                total = padded >> level
                valid = -(-frames // 2**level)
                h = F.interpolate(hidden, size=valid, mode="linear", align_corners=False)
                resampled[level] = F.pad(h, (0, total - valid), mode="replicate")
            gamma, beta = site(resampled[level])[:, :, None, :].chunk(2, dim=1)
            modulations.append((gamma, beta))
        return modulations

    def _embed(self, lips: Tensor | None, has_lips: Tensor | None) -> Tensor:
        if lips is None:
            lips = self.null_lips.expand(1, 1, -1)
        elif lips.shape[-1] != len(self.null_lips):
            raise DavssError(
                f"lips: features of size {lips.shape[-1]}, the speech prior was trained with "
                f"{len(self.null_lips)}; compute them with the prior's own visual encoder"
            )
        elif has_lips is not None:
            has_lips = has_lips if has_lips.ndim == 2 else has_lips[:, None]
            lips = torch.where(has_lips[:, :, None], lips, self.null_lips)
        return F.silu(self.project(self.norm(lips))).transpose(1, 2)


def modulate(h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """(B, C, F, N) feature map, scaled and shifted per channel and frame."""
    # the layout of h stays: were γ the first factor, a channels-last network would fall out of it
    return h * (1 + gamma) + beta
