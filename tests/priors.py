"""Small untrained priors with weights that do something, for tests."""

from dataclasses import replace

import numpy as np
import torch

from davss.config import DiffusionConfig, NetworkConfig
from davss.diffusion.prior import COLOURED, NoisePrior, PriorInfo, SpeechPrior
from davss.networks.eigenlips import Eigenlips

NETWORK = NetworkConfig(nf=8, ch_mult=(1, 2), n_fft=62, hop_length=32)
INFO = PriorInfo(8000, NETWORK, DiffusionConfig(), {"samples_seen": 12})
COLOURED_16 = PriorInfo(
    16000, replace(NETWORK, spectral=True, coloured=True), DiffusionConfig(), {COLOURED: True}
)


def make_speech_prior(info: PriorInfo = INFO) -> SpeechPrior:
    """A speech prior, by default at 8 kHz, whose lip features have size 6."""
    torch.manual_seed(0)
    encoder = Eigenlips(np.eye(1024, 3, dtype=np.float32), np.ones(6, np.float32))
    return _shake(SpeechPrior(info, encoder))


def make_noise_prior(info: PriorInfo = INFO) -> NoisePrior:
    """A noise prior, by default at 8 kHz."""
    torch.manual_seed(1)
    return _shake(NoisePrior(info))


def _shake(prior):
    for parameter in prior.network.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return prior
