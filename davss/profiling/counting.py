"""How often a separation calls the networks, and what a call costs.

Shapes: C channels · F bins · N frames.
"""

import copy
import math
from dataclasses import dataclass

import torch
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

    def times(self, count: int) -> "Evaluations":
        """Those of `count` windows."""
        return Evaluations(
            count * self.speech_forwards,
            count * self.speech_backwards,
            count * self.noise_forwards,
            count * self.noise_backwards,
        )

    def flops(self, speech: PassFlops, noise: PassFlops) -> int:
        """FLOPs of all passes, given those of one pass of each network."""
        return (
            self.speech_forwards * speech.forward
            + self.speech_backwards * speech.backward
            + self.noise_forwards * noise.forward
            + self.noise_backwards * noise.backward
        )


def count_evaluations(separator: Separator, num_speakers: int) -> Evaluations:
    """Passes of single signals through the networks for one window of speakers with lips."""
    calls, sampler = separator.num_evaluations, separator.sampler
    # the last call of a draw is its result: nothing is left to steer, so no gradient is taken
    gradients = calls - sampler.num_samples if sampler.name in GRADIENT_SAMPLERS else 0
    return _evaluations(separator, num_speakers, calls, gradients)


def count_step_evaluations(separator: Separator, num_speakers: int) -> Evaluations:
    """The same for one step, one that is not the last of a draw."""
    calls = math.ceil(separator.num_evaluations / separator.num_draw_steps)
    gradients = calls if separator.sampler.name in GRADIENT_SAMPLERS else 0
    return _evaluations(separator, num_speakers, calls, gradients)


def _evaluations(
    separator: Separator, num_speakers: int, calls: int, gradients: int
) -> Evaluations:
    branches = plan_speech(separator.sampler, num_speakers)
    noise = 0 if isinstance(separator.noise_prior, str) else 1
    return Evaluations(
        speech_forwards=branches.total * calls,
        speech_backwards=branches.total * gradients,
        noise_forwards=noise * calls,
        noise_backwards=noise * gradients,
    )


def plan_speech(sampler: SamplerConfig, num_speakers: int) -> Branches:
    """Signals in one evaluation of the speech network, of speakers who are all in view."""
    return plan_branches(num_speakers, num_speakers, sampler)


def pass_flops(prior: SpeechPrior | NoisePrior | NoiseModel, num_samples: int) -> PassFlops:
    """FLOPs of the U-Net for one signal of `num_samples`; with checkpointing the second forward
    counts as the backward's.
    """
    if isinstance(prior, str):
        return PassFlops(0, 0)
    original = prior.network
    tensors = (*original.parameters(), *original.buffers())
    # deepcopy takes these for the copies it has made: the twin holds shapes and no memory
    twin = copy.deepcopy(original, {id(t): t.detach().to("meta") for t in tensors})
    bins, _, padded = spectrogram_shape(prior, num_samples)
    with torch.device("meta"), torch.enable_grad():
        # not the waveform: the inverse STFT looks at values, which the meta device has not
        x = torch.empty(1, original.num_inputs, bins, padded, requires_grad=True)
        modulations = twin.condition(None, None, 1, num_samples)
        with FlopCounterMode(display=False) as forward:
            # that of the class: the instance's own may be compiled
            output = NCSNpp._unet(twin, x, torch.empty(1), modulations)
        with FlopCounterMode(display=False) as backward:
            # not autograd.grad, which the counter cannot follow into checkpoints
            output.backward(torch.empty_like(output))
    return PassFlops(forward.get_total_flops(), backward.get_total_flops())


def num_parameters(prior: SpeechPrior | NoisePrior | NoiseModel) -> int:
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
