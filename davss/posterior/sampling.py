"""Posterior sampling with any of the samplers; the mean of draws.

Shapes: B batch · M sources · T samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from davss.config import DapsConfig, DpsConfig, SamplerConfig, UdiffseConfig
from davss.posterior.daps import daps
from davss.posterior.dps import dps
from davss.posterior.mean_field import mean_field
from davss.posterior.pseudo import pseudo
from davss.posterior.steps import Callback, Denoise
from davss.posterior.udiffse import udiffse
from davss.seeds import number_of

SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "dps": dps,
    "daps": daps,
    "pseudo": pseudo,
    "udiffse": udiffse,
    "mean_field": mean_field,
}
GRADIENT_SAMPLERS = {"dps"}  # the others never differentiate a network


def sample(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: SamplerConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """Sources (B, M, T) drawn from the posterior given their sum, the mean of `config.num_samples`
    draws.

    denoise: (u (B, M, T), sigma (B,)) → denoised (B, M, T), each source alone, differentiable if
    the sampler is `dps`; mixture: (B, T), already scaled so that every source is near RMS 0.05,
    float32 or float64; generators: one CPU generator per item, so that an item's result depends on
    no other item. A diverged item is non-finite, the others are not touched.
    """
    draw = SAMPLERS[config.name]
    draws = [
        draw(denoise, mixture, num_sources, config, generators, callback)
        for _ in range(config.num_samples)
    ]
    return torch.stack(draws).mean(dim=0)


def evaluations(config: SamplerConfig) -> int:
    """Calls of the denoiser that all draws take."""
    per_draw = config.num_steps
    if isinstance(config, DpsConfig) and config.order == 2:
        per_draw += config.num_steps - 1  # Heun's second slope, of which the last step has none
    if isinstance(config, DapsConfig) and config.shares == "offer":
        per_draw *= 2
    if isinstance(config, UdiffseConfig):
        per_draw *= 2  # corrector and predictor
    return config.num_samples * per_draw


def gentler(config: SamplerConfig) -> SamplerConfig:
    """The sampler for a second try; for samplers without ζ what changes is the random numbers."""
    return replace(config, zeta=config.zeta / 2) if isinstance(config, DpsConfig) else config


def generator(seed: int, key: str) -> torch.Generator:
    """The random generator of one item: it depends on (seed, key) and on nothing else."""
    return torch.Generator().manual_seed(number_of(f"{seed}/{key}") % 2**63)
