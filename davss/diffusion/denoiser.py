"""The preconditioned denoiser D (EDM, arXiv 2206.00364, table 1), in the time domain.

D(u; σ, V) = c_skip(σ) u + c_out(σ) F(c_in(σ) u; c_noise(σ), V), the posterior mean of a clean
signal given u = u_0 + σ ε.
Not to be confused with the score, (D(u; σ) − u)/σ².

Shapes: B batch · T samples · V video frames · D visual feature size.
"""

import torch
from torch import Tensor, nn

from davss.networks import NCSNpp
from davss.networks.film import Modulations
from davss.networks.precision import autocast


def c_skip(sigma: Tensor, sigma_data: float) -> Tensor:
    """Weight of the noisy signal itself: that of a Gaussian Wiener filter."""
    return sigma_data**2 / (sigma**2 + sigma_data**2)


def c_out(sigma: Tensor, sigma_data: float) -> Tensor:
    """Weight of the network's output, which so has a target of unit variance."""
    return sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()


def c_in(sigma: Tensor, sigma_data: float) -> Tensor:
    """Scales the noisy signal to unit variance."""
    return 1 / (sigma**2 + sigma_data**2).sqrt()


class Denoiser(nn.Module):
    """D around a network F; sigma_data is the RMS of clean signals. `precision` is the type that
    the network computes in; all else keeps the signals' own.
    """

    def __init__(self, network: NCSNpp, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.precision = torch.float32

    def forward(self, u: Tensor, sigma: Tensor, lips: Tensor | Modulations | None = None) -> Tensor:
        """Denoised u: (B, T) noisy signals, (B,) noise levels → (B, T).

        lips: (B, V, D), None for the null condition, or what `condition` made of them.
        """
        level = sigma[:, None]
        x = (c_in(level, self.sigma_data) * u)[:, None]
        with autocast(u.device, self.precision):
            residual = self.network(x, torch.log(sigma) / 4, lips)[:, 0]
        return c_skip(level, self.sigma_data) * u + c_out(level, self.sigma_data) * residual

    def condition(
        self, lips: Tensor | None, num_samples: int, has_lips: Tensor | None = None
    ) -> Modulations:
        """The lips' part of the network for signals of `num_samples`, to be computed once and used
        at every noise level: lips (B, V, D), or None for the null condition, which items have for
        which has_lips (B,) is False.
        """
        with autocast(self.network.window.device, self.precision):
            return self.network.condition(lips, num_samples, has_lips)
