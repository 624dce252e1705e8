"""Building blocks of NCSN++ (Song et al., arXiv 2011.13456; its speech variant in Richter et al.,
arXiv 2208.05830).

Attribute names (`GroupNorm_0`, `Conv_0`, `Dense_0`, `NIN_0` …) are those of public checkpoints, so
that their weights load.

Shapes: B batch · C channels · F bins · N frames · E embedding size.
"""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from davss.errors import DavssError
from davss.networks.cpu import GroupNorm, upsample_and_convolve

ZERO_INIT = (
    1e-10  # "zero" initialisation of last layers: tiny, so that gradients are not exactly zero
)
RESCALE = 1 / math.sqrt(2)  # keeps the variance of a sum of two branches


Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def fan_avg_uniform_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """DDPM's initialiser: uniform with variance scale / mean(fan_in, fan_out)."""
    return nn.init.xavier_uniform_(weight, gain=math.sqrt(scale))


def conv(c_in: int, c_out: int, kernel: int, scale: float = 1.0) -> nn.Conv2d:
    """Convolution of the same output size, DDPM-initialised."""
    return _initialise(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2), scale)


def linear(c_in: int, c_out: int) -> nn.Linear:
    """Fully connected layer, DDPM-initialised."""
    return _initialise(nn.Linear(c_in, c_out))


def _initialise(layer: Layer, scale: float = 1.0) -> Layer:
    fan_avg_uniform_(layer.weight, scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at least four channels per group."""
    groups = min(channels // 4, 32)
    if not groups or channels % groups:
        raise DavssError(
            f"{channels} channels: not divisible into groups; give nf as 8, 16, 32, 64 or 128"
        )
    return GroupNorm(groups, channels, eps=1e-6)


SPECTRAL_CHANNELS = 5


def spectral_features(x: Tensor) -> Tensor:
    """What a bin of a spectrogram (B, 2, F, N) does not tell by its value, (B, 5, F, N).

    Log power; log of its mean over time, which is what is stationary; and its place on the
    frequency axis as three cosines. Powers are in dB of full scale over 20, so of order one.
    """
    power = x.square().sum(dim=1, keepdim=True)
    mean = power.mean(dim=3, keepdim=True)
    levels = [torch.log10(p + 1e-5) / 2 for p in (power, mean.expand_as(power))]
    place = torch.linspace(0, math.pi, x.shape[2], dtype=x.dtype, device=x.device)
    cosines = torch.stack([torch.cos(place * k) for k in (1, 2, 4)])[None, :, :, None]
    return torch.cat([*levels, cosines.expand(x.shape[0], -1, -1, x.shape[3])], dim=1)


def downsample(x: Tensor) -> Tensor:
    """(B, C, F, N) → (B, C, F/2, N/2) by mean-pooling."""
    return F.avg_pool2d(x, 2)


def upsample(x: Tensor) -> Tensor:
    """(B, C, F, N) → (B, C, 2F, 2N) by repetition."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class FourierFeatures(nn.Module):
    """Random Fourier features of a scalar: (B,) → (B, 2·size), order [sin, cos]."""

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = 2 * math.pi * c_noise[:, None] * self.W
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PointwiseLinear(nn.Module):
    """Linear map over channels, stored as (in, out): the "NIN" of public checkpoints."""

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.W = nn.Parameter(fan_avg_uniform_(torch.empty(channels, channels), scale))
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, positions, C)
        h = x @ self.W
        return h + self.b.to(h.dtype)  # under autocast a float32 bias would make float32 of all


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions of (B, C, F, N), residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = PointwiseLinear(channels)  # query
        self.NIN_1 = PointwiseLinear(channels)  # key
        self.NIN_2 = PointwiseLinear(channels)  # value
        self.NIN_3 = PointwiseLinear(channels, ZERO_INIT)  # output

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, F·N, C)
        # with a dimension of heads, of which there is one: fast kernels want it
        q, k, v = (project(h)[:, None] for project in (self.NIN_0, self.NIN_1, self.NIN_2))
        h = self.NIN_3(F.scaled_dot_product_attention(q, k, v)[:, 0])
        h = h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return (x + h) * RESCALE


class ResnetBlock(nn.Module):
    """BigGAN residual block conditioned on the noise embedding; `resample` is `downsample`,
    `upsample` or None.
    """

    def __init__(self, c_in: int, c_out: int, embedding: int, resample=None) -> None:
        super().__init__()
        self.resample = resample
        self.GroupNorm_0 = group_norm(c_in)
        self.Conv_0 = conv(c_in, c_out, 3)
        self.Dense_0 = linear(embedding, c_out)
        self.GroupNorm_1 = group_norm(c_out)
        self.Conv_1 = conv(c_out, c_out, 3, ZERO_INIT)
        if c_in != c_out or resample:
            self.Conv_2 = conv(c_in, c_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # (B, C, F, N), (B, E)
        h = F.silu(self.GroupNorm_0(x))
        if self.resample is upsample:
            h, x = upsample_and_convolve(h, self.Conv_0), upsample(self.Conv_2(x))
        elif self.resample is downsample:
            h, x = self.Conv_0(downsample(h)), self.Conv_2(downsample(x))
        else:
            h, x = self.Conv_0(h), self.Conv_2(x) if hasattr(self, "Conv_2") else x
        h = h + self.Dense_0(F.silu(embedding))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        return (x + h).mul_(RESCALE)


class Combine(nn.Module):
    """Adds a projection of the down-sampled input to a feature map."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.Conv_0 = conv(c_in, c_out, 1)

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        return self.Conv_0(pyramid) + h
