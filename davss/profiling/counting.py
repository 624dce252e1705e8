"""How often a separation calls the networks, and what a call costs, on torch's meta device.

FLOPs are two per multiply-add; those of the U-Net are counted, see NOT_COUNTED.
Shapes: C channels · F bins · N frames · T samples.
"""

import copy
import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from davss.config import NoiseModel, SamplerConfig
from davss.diffusion.guidance import Branches, plan_branches
from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.networks import NCSNpp
from davss.networks.ncsnpp import FRAME_MULTIPLE
from davss.posterior.separator import Separator

GRADIENT_SAMPLERS = {"dps"}  # the others never differentiate a network
# FiLM's modulations depend on the lips only and are computed once for all steps
NOT_COUNTED = "STFTs, normalisation, activations, resizing, likelihood, lips, NMF"

Prior = SpeechPrior | NoisePrior | NoiseModel


@dataclass(frozen=True)
class PassFlops:
    """FLOPs of a network for a single signal; both zero for a noise model without a network."""

    forward: int
    backward: int  # to the input only: weights take no gradient


@dataclass(frozen=True)
class Evaluations:
    """Passes of single signals through each prior's network."""

    speech_forwards: int
    speech_backwards: int  # fewer than forwards: the last step has none
    noise_forwards: int
    noise_backwards: int

    @property
    def forwards(self) -> int:
        """Forwards of both networks."""
        return self.speech_forwards + self.noise_forwards

    @property
    def backwards(self) -> int:
        """Backwards of both networks."""
        return self.speech_backwards + self.noise_backwards

    def flops(self, *passes: PassFlops) -> int:
        """FLOPs of all passes, given those of one pass of the speech and of the noise prior."""
        each = [flops for one in passes for flops in (one.forward, one.backward)]
        return sum(count * flops for count, flops in zip(astuple(self), each, strict=True))


def count_evaluations(
    separator: Separator, num_speakers: int, windows: int = 1, *, one_step: bool = False
) -> Evaluations:
    """Passes for windows of speakers with lips; one_step: of a step that is not a draw's last."""
    calls, sampler = separator.num_evaluations, separator.sampler
    # the last call of a draw is its result: nothing is left to steer, so no gradient is taken
    gradients = calls - sampler.num_samples
    if one_step:
        calls = gradients = math.ceil(calls / separator.num_draw_steps)
    if sampler.name not in GRADIENT_SAMPLERS:
        gradients = 0
    speech = windows * plan_speech(sampler, num_speakers).total
    noise = 0 if isinstance(separator.noise_prior, str) else windows
    return Evaluations(speech * calls, speech * gradients, noise * calls, noise * gradients)


def plan_speech(sampler: SamplerConfig, num_speakers: int) -> Branches:
    """Signals in one evaluation of the speech network, of speakers who are all in view."""
    return plan_branches(num_speakers, num_speakers, sampler)


def pass_flops(prior: Prior, num_samples: int) -> PassFlops:
    """FLOPs of the U-Net for one signal of `num_samples`; with checkpointing the second forward
    counts as the backward's.
    """
    if isinstance(prior, str):
        return PassFlops(0, 0)
    x, network = _on_meta(prior, num_samples)
    with torch.device("meta"), torch.enable_grad():
        modulations = network.condition(None, num_samples)
        with FlopCounterMode(display=False) as forward:
            # that of the class: the instance's own may be compiled
            output = NCSNpp._unet(network, x.requires_grad_(), torch.empty(1), modulations)
        with FlopCounterMode(display=False) as backward:
            # not autograd.grad, which the counter cannot follow into checkpoints
            output.backward(torch.empty_like(output))
    return PassFlops(forward.get_total_flops(), backward.get_total_flops())


def saved_bytes(prior: SpeechPrior | NoisePrior, num_samples: int) -> int:
    """Bytes that autograd saves of one clip in training, float32, weights excepted."""
    x, network = _on_meta(prior, num_samples)
    weights = {tensor.untyped_storage()._cdata for tensor in _tensors(network)}
    for parameter in network.parameters():
        parameter.requires_grad_()
    storages: dict[int, Tensor] = {}  # held, so that no id is used twice

    def keep(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in weights:
            storages.setdefault(storage, tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
    with torch.device("meta"), torch.enable_grad(), hooks:
        modulations = network.condition(None, num_samples)
        NCSNpp._unet(network, x, torch.empty(1), modulations)
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def _on_meta(prior: SpeechPrior | NoisePrior, num_samples: int) -> tuple[Tensor, NCSNpp]:
    """Input of the U-Net, not the waveform: the inverse STFT looks at values, which the meta device
    has not; the network with shapes and no memory.
    """
    original = prior.network
    # deepcopy takes these for the copies it has made
    network = copy.deepcopy(original, {id(t): t.detach().to("meta") for t in _tensors(original)})
    bins, _, padded = spectrogram_shape(prior, num_samples)
    return torch.empty(1, original.num_inputs, bins, padded, device="meta"), network


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def num_parameters(prior: Prior) -> int:
    """Parameters of the network, if there is one."""
    return 0 if isinstance(prior, str) else sum(p.numel() for p in prior.network.parameters())


def spectrogram_shape(prior: SpeechPrior | NoisePrior, num_samples: int) -> tuple[int, int, int]:
    """Bins, frames, and padded frames of the network's spectrogram of a signal."""
    network = prior.network
    frames = num_samples // network.hop_length + 1
    return network.n_fft // 2 + 1, frames, frames + -frames % FRAME_MULTIPLE


def feature_maps(
    prior: SpeechPrior | NoisePrior, num_samples: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Channels C and size (F, N) of the network's feature maps, level by level."""
    config = prior.info.network
    bins, _, padded = spectrogram_shape(prior, num_samples)
    channels = [config.nf * multiple for multiple in config.ch_mult]
    return channels, [(bins >> level, padded >> level) for level in range(len(channels))]
