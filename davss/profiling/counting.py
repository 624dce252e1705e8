"""How often a separation calls the networks, and what a call costs, on torch's meta device.

FLOPs are two per multiply-add; those of the U-Net are counted, see NOT_COUNTED. T samples.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from davss.config import DiffusionConfig, NetworkConfig, NoiseModel, ShardsConfig
from davss.diffusion.guidance import plan_branches
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior
from davss.errors import DavssError
from davss.networks.eigenlips import Eigenlips
from davss.networks.ncsnpp import FRAME_MULTIPLE, NCSNpp
from davss.posterior.sampling import GRADIENT_SAMPLERS
from davss.posterior.separator import Separator

# FiLM's modulations depend on the lips only and are computed once for all steps
NOT_COUNTED = "STFTs, normalisation, activations, resizing, likelihood, lips, NMF"

Prior = SpeechPrior | NoisePrior | NoiseModel


class Passes(NamedTuple):
    """Passes of single signals through each prior's network, or the FLOPs of one of each."""

    speech_forwards: int
    speech_backwards: int  # to the input only; fewer than forwards: the last step has none
    noise_forwards: int
    noise_backwards: int

    def flops(self, each: "Passes") -> int:
        """FLOPs of all, given those of one of each."""
        return sum(count * flops for count, flops in zip(self, each, strict=True))


def untrained_prior(info: PriorInfo, lips_dim: int | None = None) -> SpeechPrior | NoisePrior:
    """A prior that costs what a trained one does: a speech prior where `lips_dim` is given."""
    if lips_dim is None:
        return NoisePrior(info)
    return SpeechPrior(info, Eigenlips(np.zeros((1, 1), np.float32), np.ones(lips_dim, np.float32)))


def untrained_priors(
    network: NetworkConfig, sample_rate: int = 16_000
) -> tuple[SpeechPrior, NoisePrior]:
    """Both priors, with lip features as the shards stage makes them.

    Raises DavssError for a network that cannot be built.
    """
    if sample_rate < 1:
        raise DavssError(f"--sample-rate {sample_rate}: give samples per second, such as 16000")
    info = PriorInfo(sample_rate, network, DiffusionConfig())
    speech = untrained_prior(info, 2 * ShardsConfig().num_components)
    assert isinstance(speech, SpeechPrior)
    return speech, NoisePrior(info)


def count_passes(
    separator: Separator, num_speakers: int, windows: int = 1, *, one_step: bool = False
) -> Passes:
    """Passes for windows of speakers with lips; one_step: of a step that is not a draw's last."""
    calls, sampler = separator.num_evaluations, separator.sampler
    # the last call of a draw is its result: nothing is left to steer, so no gradient is taken
    gradients = calls - sampler.num_samples
    if one_step:
        calls = gradients = math.ceil(calls / separator.num_draw_steps)
    if sampler.name not in GRADIENT_SAMPLERS:
        gradients = 0
    speech = windows * plan_branches(num_speakers, num_speakers, sampler).total
    noise = 0 if isinstance(separator.noise_prior, str) else windows
    return Passes(speech * calls, speech * gradients, noise * calls, noise * gradients)


def pass_flops(prior: Prior, num_samples: int) -> tuple[int, int]:
    """FLOPs of the U-Net's forward and backward for one signal of `num_samples`, zero for a noise
    model without one; with checkpointing the second forward counts as the backward's.
    """
    if isinstance(prior, str):
        return 0, 0
    x, network = _on_meta(prior, num_samples)
    network.requires_grad_(False)
    with torch.device("meta"), torch.enable_grad():
        modulations = network.condition(None, num_samples)
        with FlopCounterMode(display=False) as forward:
            output = network._unet(x.requires_grad_(), torch.empty(1), modulations)
        with FlopCounterMode(display=False) as backward:
            # not autograd.grad, which the counter cannot follow into checkpoints
            output.backward(torch.empty_like(output))
    return forward.get_total_flops(), backward.get_total_flops()


def saved_bytes(prior: SpeechPrior | NoisePrior, num_samples: int) -> int:
    """Bytes that autograd saves of one clip in training, float32, weights excepted."""
    x, network = _on_meta(prior, num_samples)
    tensors = [*network.parameters(), *network.buffers()]
    weights = {tensor.untyped_storage()._cdata for tensor in tensors}
    storages: dict[int, Tensor] = {}  # held, so that no id is used twice

    def keep(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in weights:
            storages.setdefault(storage, tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
    with torch.device("meta"), torch.enable_grad(), hooks:
        network._unet(x, torch.empty(1), network.condition(None, num_samples))
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def _on_meta(prior: SpeechPrior | NoisePrior, num_samples: int) -> tuple[Tensor, NCSNpp]:
    """Input of the U-Net, not the waveform: the inverse STFT looks at values, which the meta device
    has not; a network like the prior's, with shapes and no memory.
    """
    with torch.device("meta"):
        lips_dim = prior.visual_encoder.dim if isinstance(prior, SpeechPrior) else None
        network = untrained_prior(prior.info, lips_dim).network
        network.checkpointing = prior.network.checkpointing
        return torch.empty(1, network.num_inputs, *map_size(network, num_samples)), network


def map_size(network: NCSNpp, num_samples: int) -> tuple[int, int]:
    """Bins and padded frames of the network's spectrogram of a signal."""
    frames = num_samples // network.hop_length + 1
    return network.num_bins, frames + -frames % FRAME_MULTIPLE


def num_parameters(prior: Prior) -> int:
    """Parameters of the network, if there is one."""
    return 0 if isinstance(prior, str) else sum(p.numel() for p in prior.network.parameters())
