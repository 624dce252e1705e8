"""What is profiled: mixtures of a size, and priors of a size where there are none yet.

Shapes: T samples of a mixture.
"""

import math
from dataclasses import dataclass

import numpy as np

from davss.config import DiffusionConfig, NetworkConfig, ShardsConfig
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior
from davss.errors import DavssError
from davss.networks.eigenlips import CROP_SIZE, REDUCTION, Eigenlips
from davss.posterior.separator import Separator
from davss.posterior.windows import Windows


@dataclass(frozen=True)
class Workload:
    """What is to be separated; raises DavssError naming the flag of `davss profile` at fault."""

    num_speakers: int = 2  # all in view
    seconds: float = 4.0  # length of a mixture
    batch_size: int = 1  # mixtures, or windows of them, that the sampler takes together
    num_mixtures: int = 1000  # size of the evaluation to forecast

    def __post_init__(self) -> None:
        counts = {
            "--speakers": self.num_speakers,
            "--batch-size": self.batch_size,
            "--mixtures": self.num_mixtures,
        }
        for flag, count in counts.items():
            if count < 1:
                raise DavssError(f"{flag} {count}: give 1 or more")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise DavssError(f"--seconds {self.seconds:g}: give a length in seconds, such as 4")


def plan_mixture(separator: Separator, workload: Workload) -> Windows:
    """The windows of a mixture; raises DavssError for one shorter than the networks' STFT."""
    num_samples = round(workload.seconds * separator.sample_rate)
    priors = (separator.speech_prior, separator.noise_prior)
    shortest = max(prior.network.n_fft for prior in priors if not isinstance(prior, str))
    if num_samples <= shortest:
        raise DavssError(
            f"--seconds {workload.seconds:g}: shorter than the networks' STFT window; give more "
            f"than {shortest / separator.sample_rate:.3f}"
        )
    return separator.plan(num_samples)


def untrained_priors(
    network: NetworkConfig, sample_rate: int = 16_000
) -> tuple[SpeechPrior, NoisePrior]:
    """Priors that cost what trained ones do; lip features as the shards stage makes them.

    Raises DavssError for a network that cannot be built.
    """
    if sample_rate < 1:
        raise DavssError(f"--sample-rate {sample_rate}: give samples per second, such as 16000")
    info = PriorInfo(sample_rate, network, DiffusionConfig())
    components = ShardsConfig().num_components
    basis = np.eye((CROP_SIZE // REDUCTION) ** 2, components, dtype=np.float32)
    encoder = Eigenlips(basis, np.ones(2 * components, np.float32))
    try:
        return SpeechPrior(info, encoder), NoisePrior(info)
    except (ValueError, ZeroDivisionError):  # of GroupNorm, which divides channels into groups
        raise DavssError(
            f"--nf {network.nf}: not divisible into groups of channels; give 8, 16, 32, 64 or 128"
        ) from None
