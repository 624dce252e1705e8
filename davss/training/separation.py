"""What a prior in training is worth: a few fixed mixtures separated, and sounds that it makes up.

A speech prior separates pairs of held-out voices in white noise, the noise model being `gaussian`,
which needs no training; a noise prior separates a voice from held-out noise with a given speech
prior. Mixtures, noise and random draws are the same every time.
"""

# Shape legend: P mixtures, K speakers, T samples, V video frames, D visual feature size.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from davss.config import DapsConfig
from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.diffusion.schedule import sigma_schedule
from davss.evaluation.metrics import si_sdr
from davss.posterior.separator import Separator
from davss.seeds import number_of
from davss.training.validation import ValidationClips

SNR_DB = 10.0  # of the voices together
MIXTURES_AT_A_TIME = 4
SAMPLES, SAMPLE_SEED = 2, 0
# closed-form Gaussian updates, no gradient through a network: the cheapest sampler
SAMPLER = DapsConfig(inner_noise=0.0, sigma_min=1e-3, rho=5.0, guidance_weight=0.0)


@dataclass(frozen=True)
class ValidationMixtures:
    """Fixed mixtures (P, T) of speech (P, K, T) with lips (P, K, V, D); `speech_prior` loads what a
    noise prior is validated with.
    """

    mixture: Tensor
    speech: Tensor
    lips: Tensor | None
    keys: tuple[str, ...]
    speech_prior: Callable[[], SpeechPrior | NoisePrior] | None = None


def mix_voices(clips: ValidationClips, count: int) -> ValidationMixtures:
    """Up to `count` pairs of clips, each a neighbour's second voice, in white noise."""
    total = len(clips.keys)
    voices = min(total, 2)
    rows = [[(first + k) % total for k in range(voices)] for first in range(min(count, total))]
    keys = tuple("+".join(clips.keys[index] for index in row) for row in rows)
    chosen = torch.tensor(rows)
    speech = clips.audio[chosen]
    noise = torch.stack([_white(key, speech) for key in keys])
    lips = None if clips.lips is None else clips.lips[chosen].float()
    return _mix(speech, noise, lips, keys)


def mix_noises(
    voices: ValidationClips,
    noises: ValidationClips,
    count: int,
    speech_prior: Callable[[], SpeechPrior | NoisePrior],
) -> ValidationMixtures:
    """Up to `count` clips of `voices`, each in one of `noises`, both of one length."""
    rows = range(min(count, len(voices.keys)))
    noise = torch.stack([noises.audio[row % len(noises.keys)] for row in rows])
    lips = None if voices.lips is None else voices.lips[list(rows), None].float()
    keys = voices.keys[: len(rows)]
    return _mix(voices.audio[list(rows), None], noise, lips, keys, speech_prior)


def _mix(
    speech: Tensor,
    noise: Tensor,
    lips: Tensor | None,
    keys: tuple[str, ...],
    speech_prior: Callable[[], SpeechPrior | NoisePrior] | None = None,
) -> ValidationMixtures:
    total = speech.sum(dim=1)
    ratio = total.square().mean(-1) / noise.square().mean(-1).clamp_min(1e-20)
    noise = noise * (ratio * 10 ** (-SNR_DB / 10)).sqrt()[:, None]
    return ValidationMixtures(total + noise, speech, lips, keys, speech_prior)


def _white(key: str, like: Tensor) -> Tensor:
    seed = number_of(f"white {key}", "big") >> 1
    return torch.randn(like.shape[-1], generator=torch.Generator().manual_seed(seed))


def separation_figures(
    prior: SpeechPrior | NoisePrior,
    mixtures: ValidationMixtures,
    num_steps: int,
    *,
    batch_size: int = MIXTURES_AT_A_TIME,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, float]:
    """`valid/si_sdr_improvement` in dB, the mean over all voices of `mixtures`, which the ranks
    share: all must call this and get the same. A mixture that diverges counts as no improvement.

    `prior` is the EMA module, in eval mode and without gradients.
    """
    device = next(prior.parameters()).device
    sampler = replace(SAMPLER, num_steps=num_steps)
    if isinstance(prior, SpeechPrior):
        separate = Separator(prior, "gaussian", sampler, device)
    else:
        speech_prior = mixtures.speech_prior() if mixtures.speech_prior else None
        assert isinstance(speech_prior, SpeechPrior)
        separate = Separator(speech_prior, prior, sampler, device)
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    mine = list(range(rank, len(mixtures.keys), world_size))
    for begin in range(0, len(mine), batch_size):
        chosen = mine[begin : begin + batch_size]
        mixture, speech = mixtures.mixture[chosen], mixtures.speech[chosen]
        result = separate(
            mixture,
            None if mixtures.lips is None else mixtures.lips[chosen],
            num_speakers=speech.shape[1],
            sample_rate=separate.sample_rate,
            keys=[mixtures.keys[index] for index in chosen],
        )
        failed = torch.tensor([error is not None for error in result.errors])
        estimate = torch.where(failed[:, None, None], mixture[:, None], result.speech)
        gain = si_sdr(estimate, speech) - si_sdr(mixture[:, None].expand_as(speech), speech)
        totals += torch.stack([gain.double().sum(), torch.tensor(float(gain.numel()))]).to(totals)
    if world_size > 1:
        dist.all_reduce(totals)
    return {"valid/si_sdr_improvement": float(totals[0] / totals[1])}


@torch.no_grad()
def unconditional(
    prior: SpeechPrior | NoisePrior, num_samples: int, num_steps: int, batch_size: int = SAMPLES
) -> Tensor:
    """SAMPLES signals (B, T) on the CPU that the prior makes up from noise alone, by the
    probability-flow ODE in num_steps Euler steps: always from the same noise.
    """
    diffusion, device = prior.info.diffusion, next(prior.parameters()).device
    sigma_min = max(diffusion.sigma_min, 1e-3)  # below that nothing is left to hear
    sigmas = sigma_schedule(num_steps, sigma_min, diffusion.sigma_max, diffusion.rho).tolist()
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    finished = []
    for noise in torch.randn(SAMPLES, num_samples, generator=generator).split(batch_size):
        u = (sigmas[0] * noise).to(device)
        for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
            denoised = prior(u, torch.full((len(u),), sigma, device=device))
            u = denoised + following / sigma * (u - denoised)
        finished.append(u.cpu())
    return torch.cat(finished)


def sample_figures(samples: Tensor, sigma_data: float) -> dict[str, float]:
    """Levels of made-up signals (B, T) in dB relative to sigma_data: mean and standard deviation of
    `valid/sample_level`, and `valid/sample_crest`, their mean peak over RMS.
    """
    rms = samples.double().square().mean(-1).sqrt().clamp_min(1e-12)
    level = 20 * torch.log10(rms / sigma_data)
    crest = 20 * torch.log10(samples.double().abs().amax(-1) / rms)
    return {
        "valid/sample_level": float(level.mean()),
        "valid/sample_level_spread": float(level.std()),
        "valid/sample_crest": float(crest.mean()),
    }
