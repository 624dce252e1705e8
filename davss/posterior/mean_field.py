"""Every source in one call, the others taken for coloured Gaussian noise (docs/method.md §5.4).

Of the other sources only their power is used: the mixture is a noisy observation of source j,

    y = x_j + n,   n ~ N(0, V_j),   V_j = Σ_{l≠j} P_l,   P_l = E|x_l|²

and a prior that knows coloured noise has its posterior mean at once, D_j(y; V_j). In variational
inference this is called a mean field. The quiet moments of the mixture say what the noise is, in
that the speech is found, in the speech then the noise, and what both leave they share.

Shapes: B batch · M sources, the last of which is the noise · K = M − 1 speakers · T samples ·
F bins · N frames. Numbers in brackets are equations of docs/method.md §5.4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from davss.config import MeanFieldConfig
from davss.diffusion.coloured import QUANTILE, quiet_level, smooth, sounding
from davss.diffusion.hearing import HOP, N_FFT
from davss.networks import spectrum
from davss.posterior.steps import Callback, Denoise, Level, Watch, share_out

FRAMES = 5  # over which the power of an estimate is averaged


@torch.no_grad()
def mean_field(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: MeanFieldConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """The sources (B, M, T); see `davss.posterior.sample`. Nothing is drawn.

    denoise: is given the variances (B, K, F, N) of what each speaker is heard in, in the place of
    noise levels; the noise it hears in the speakers that it has just found (`expected_power`).
    """
    watch = Watch(mixture, config.compression, callback)
    u = mixture[:, None].expand(-1, num_sources, -1)
    power, speakers = _power(mixture), num_sources - 1
    quiet = quiet_level(power, sounding(power), QUANTILE).expand_as(power)
    # at first every speaker has an equal part of what is not quiet
    found = (power - quiet).clamp_min(0) / max(speakers, 1)
    voices = found[:, None].repeat(1, speakers, 1, 1)
    for step in range(config.num_steps):
        others = voices.sum(dim=1, keepdim=True) - voices
        denoised = denoise(u, quiet[:, None] + others)  # (34)
        for k in range(speakers):
            voices[:, k] = expected_power(denoised[:, k])
        sources = share_out(denoised, mixture)  # (36)
        watch(Level(step, 0.0, 0.0, 0.0), u, denoised, denoised - u, sources - denoised)
    return sources


def expected_power(estimate: Tensor) -> Tensor:
    """E|x|² (B, F, N) of what is estimated, (B, T), (35)."""
    return smooth(_power(estimate), FRAMES)


def _power(signal: Tensor) -> Tensor:
    return spectrum.stft(signal, N_FFT, HOP, pad_mode="reflect").abs().square()
