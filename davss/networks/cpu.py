"""What makes CPUs faster and changes results by rounding only (docs/benchmarks.md): memory that
stays with the process, a backward of group normalisation, convolutions behind an up-sampling.

Shapes: B batch · C channels · F bins · N frames · G groups.
"""

import ctypes
import functools
import math
import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
LARGEST = 2**31 - 1  # bytes at the end of the heap that are kept, as a C int


@functools.cache
def keep_freed_memory() -> None:
    """Have malloc keep what is freed, once per process; does nothing where malloc is not glibc's.

    The steps of a sampler or of training ask for the same feature maps again and again, tens of
    megabytes each. glibc hands them back to the system, and the next step waits for every page to
    be made anew: a third or more of all time. The process stays as large as it was at its largest.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)  # no block has a mapping of its own, which would go with it
    mallopt(M_TRIM_THRESHOLD, LARGEST)


class GroupNorm(nn.GroupNorm):
    """torch's own, with a backward that is as fast as its forward on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == self.weight.dtype and torch.is_grad_enabled():
            return _NormaliseGroups.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return super().forward(x)


class _NormaliseGroups(torch.autograd.Function):
    """Group normalisation whose gradient a·g + b·x + c is two sums and two fused products.

    torch's backward of channels-last maps takes as long on CPUs as that of a convolution.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps):  # x (B, C, F, N), weight and bias (C,)
        b, c, *positions = x.shape
        y, mean, rstd = torch.native_group_norm(
            x, weight, bias, b, c, math.prod(positions), groups, eps
        )
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, weight, mean, rstd = ctx.saved_tensors
        groups = mean.shape[1]
        size = x[0].numel() / groups  # what a mean is taken over
        sums = g.sum(dim=(2, 3)).unflatten(1, (groups, -1))  # (B, G, C/G)
        products = (g * x).sum(dim=(2, 3)).unflatten(1, (groups, -1))
        w, mean, rstd = weight.unflatten(0, (groups, -1)), mean[..., None], rstd[..., None]
        total = (w * sums).sum(dim=2, keepdim=True)  # (B, G, 1)
        slope = (mean * total - (w * products).sum(dim=2, keepdim=True)) * rstd**3 / size
        offset = -slope * mean - total * rstd / size

        def per_channel(factor: Tensor) -> Tensor:
            return factor.expand_as(sums).reshape(*x.shape[:2], 1, 1)

        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = torch.addcmul(per_channel(offset), x, per_channel(slope))
            of_x.addcmul_(g, per_channel(w * rstd))
        of_weight = ((products - mean * sums) * rstd).sum(dim=0).flatten()
        return of_x, of_weight, sums.sum(dim=0).flatten(), None, None


def upsample_and_convolve(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """`layer(upsample(x))` of a 3×3 convolution in 4/9 of the multiplications.

    Behind a repetition the nine taps meet only four different values: they add up to a transposed
    4×4 convolution of stride 2.
    """
    c_out, c_in = layer.weight.shape[:2]
    taps = F.pad(layer.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1)).reshape(-1, 1, 5, 5)
    kernel = 4 * F.avg_pool2d(taps, 2, stride=1)
    return F.conv_transpose2d(x, kernel.view(c_in, c_out, 4, 4), layer.bias, stride=2, padding=1)
