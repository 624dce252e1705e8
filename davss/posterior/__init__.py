"""Posterior sampling: all sources of a mixture together, from priors of single sources.

`sample` needs no network: any differentiable denoiser will do, which is how it is tested against
closed-form posteriors.
"""

from davss.posterior import likelihood
from davss.posterior.sampling import sample
from davss.posterior.steps import Step

__all__ = ["Step", "likelihood", "sample"]
