"""Posterior sampling with any of the samplers: draws, their mean, mixture consistency.

Shapes: S draws · B batch · M sources · T samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from davss.config import SamplerConfig, changed
from davss.posterior.daps import daps
from davss.posterior.dps import dps
from davss.posterior.residual import dirac, pseudo
from davss.posterior.steps import Callback, Denoise
from davss.seeds import number_of

SAMPLERS = {"dps": dps, "daps": daps, "pseudo": pseudo, "dirac": dirac}


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
    the sampler is `dps`; mixture: (B, T), already scaled so that every source is near the priors'
    sigma_data, float32 or float64; generators: one CPU generator per item, so that an item's result
    depends on no other item. A diverged item is non-finite, the others are not touched.
    """
    return draws(denoise, mixture, num_sources, config, generators, callback).mean(dim=0)


def evaluations(config: SamplerConfig) -> int:
    """Calls of the denoiser that all draws take."""
    per_draw = config.num_steps * (config.ode_steps if config.name == "daps" else 1)
    if config.name == "dps" and config.order == 2 and not config.multistep:
        per_draw += config.num_steps - 1  # Heun's second slope, of which the last step has none
    return config.num_samples * per_draw


def draws(
    denoise: Denoise,
    mixture: Tensor,
    num_sources: int,
    config: SamplerConfig,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """All `config.num_samples` draws, (S, B, M, T); see `sample`."""
    sampler = SAMPLERS[config.name]
    results = []
    for _ in range(config.num_samples):
        sources = sampler(denoise, mixture, num_sources, config, generators, callback)
        if config.consistency:
            sources = sources + (mixture - sources.sum(dim=1))[:, None] / num_sources
        results.append(sources)
    return torch.stack(results)


def gentler(sampler: SamplerConfig) -> SamplerConfig:
    """The sampler for a second try; for samplers without ζ what changes is the random numbers."""
    late = None if sampler.zeta_late is None else sampler.zeta_late / 2
    return changed(sampler, zeta=sampler.zeta / 2, zeta_late=late)


def generator(seed: int, key: str) -> torch.Generator:
    """The random generator of one item: it depends on (seed, key) and on nothing else."""
    return torch.Generator().manual_seed(number_of(f"{seed}/{key}") % 2**63)
