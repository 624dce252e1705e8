"""Algorithm 1 as one writes it first: what davss rearranges is the same arithmetic.

One mixture, one network call per source and guidance branch, layers as they are drawn, the estimate
without gradients, and the likelihood's gradient by a second forward.
"""

import torch
import torch.nn.functional as F
from torch import nn

from davss.config import DpsConfig
from davss.diffusion.schedule import sigma_schedule
from davss.networks import layers
from davss.posterior import sample
from davss.posterior.likelihood import reconstruction_loss
from davss.posterior.separator import Separator
from tests.priors import make_noise_prior, make_speech_prior

CONFIG = DpsConfig(num_steps=2, guidance_weight=0.5)


class DrawnBlock(layers.ResnetBlock):
    """The residual block without rearrangement."""

    def forward(self, x, embedding):
        h = F.silu(self.GroupNorm_0(x))
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h) + self.Dense_0(F.silu(embedding))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        return ((self.Conv_2(x) if hasattr(self, "Conv_2") else x) + h) * layers.RESCALE


def as_drawn(prior):
    for layer in prior.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.__class__ = nn.GroupNorm
        elif isinstance(layer, layers.ResnetBlock):
            layer.__class__ = DrawnBlock
    return prior


def written_out(speech, noise, mixture, lips):
    """Sources (1, M, T) of one mixture (1, T)."""
    num_sources, length, w = lips.shape[1] + 1, mixture.shape[-1], CONFIG.guidance_weight

    def denoise(u, sigma):
        found = []
        for j, own in enumerate(u[:-1]):
            given = speech(own[None], sigma, lips[:, j])[0]
            found.append((1 + w) * given - w * speech(own[None], sigma)[0])
        return torch.stack([*found, noise(u[-1:], sigma)[0]])

    grid = sigma_schedule(CONFIG.num_steps, CONFIG.sigma_min, CONFIG.sigma_max, CONFIG.rho)
    sigmas = [*grid.tolist(), 0.0]
    u = sigmas[0] * torch.randn(num_sources, length, generator=torch.Generator().manual_seed(0))
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        level = torch.tensor([sigma])
        with torch.no_grad():
            denoised = denoise(u, level)
        if sigma_next == 0:
            return denoised[None]
        moving = u.clone().requires_grad_(True)
        total = denoise(moving, level).sum(dim=0)
        loss = reconstruction_loss(mixture, total[None], CONFIG.compression)
        (gradient,) = torch.autograd.grad(loss.sum(), moving)
        pull = CONFIG.zeta * length**0.5 * gradient / (gradient.norm(dim=1, keepdim=True) + 1e-8)
        u = u + (sigma_next - sigma) * ((u - denoised) / sigma + pull)


def test_davss_does_the_same_arithmetic():
    priors = make_speech_prior(), make_noise_prior()
    generator = torch.Generator().manual_seed(1)
    mixture = 0.1 * torch.randn(1, 1600, generator=generator)
    lips = torch.randn(1, 2, 5, 6, generator=generator)
    seeded = [torch.Generator().manual_seed(0)]
    denoise = next(Separator(*priors, CONFIG, "cpu").denoisers(mixture, lips, 2, seeded))
    found = sample(denoise, mixture, 3, CONFIG, seeded)
    expected = written_out(*(as_drawn(prior) for prior in priors), mixture, lips).detach()
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
