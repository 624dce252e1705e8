"""NCSN++ computed layer by layer as it is drawn, to compare davss's networks with."""

import torch.nn.functional as F
from torch import Tensor, nn

from davss.networks import layers


def as_drawn(prior: nn.Module) -> None:
    """Up-sampling, then convolution, and torch's own group normalisation; the weights stay."""
    for layer in prior.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.__class__ = nn.GroupNorm
        elif isinstance(layer, layers.ResnetBlock):
            layer.__class__ = DrawnBlock


class DrawnBlock(layers.ResnetBlock):
    """The residual block without rearrangement."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h) + self.Dense_0(F.silu(embedding))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        return (x + h) * layers.RESCALE
