"""Validation of a prior at fixed noise levels, on held-out clips with fixed noise.

The loss is the training loss (docs/method.md §2) at six sigmas between 0.001 and 1, and so the same
measure in all runs: 1 is the loss of a Wiener filter for white noise, that of an untrained prior.

The gain says the same in dB, against a baseline that sees the same noise: 10 log10(E|W(u) − x|² /
E|D(u) − x|²). `valid/gain` takes for W the Wiener filter of a white Gaussian of RMS sigma_data;
`valid/gain_over_spectrum` that of a stationary Gaussian with the average spectrum of the validation
clips themselves, which no prior without knowledge of time can beat by much.
"""

# Shape legend: B batch, T samples, V video frames, D visual feature size.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from davss.config import PriorConfig
from davss.diffusion.prior import NoisePrior
from davss.diffusion.schedule import VALIDATION_SIGMAS as SIGMAS
from davss.errors import DavssError
from davss.seeds import number_of
from davss.shards.contract import Clip, frames_of, samples_per_frame
from davss.shards.reader import ShardReader

EXAMPLE_SIGMAS = (0.063, 0.25)


@dataclass(frozen=True)
class ValidationClips:
    """Held-out crops, whole clips at RMS sigma_data: audio (B, T), lips (B, V, D) or None."""

    audio: Tensor
    lips: Tensor | None
    keys: tuple[str, ...]


def load_clips(
    reader: ShardReader, config: PriorConfig, sample_rate: int, *, count: int, with_lips: bool
) -> ValidationClips:
    """Centre crops of up to `count` clips of `reader`, chosen by a hash of their keys."""
    rows, sigma_data = reader.clips, config.diffusion.sigma_data
    crop_samples = round(config.training.crop_seconds * sample_rate)
    long_enough = [
        key
        for key, length in zip(rows["key"], rows["num_samples"], strict=True)
        if length >= crop_samples
    ]
    if not long_enough:
        raise DavssError(
            f"validation split: no clip is as long as a crop ({crop_samples} samples); lower "
            "training.crop_seconds"
        )
    keys = sorted(long_enough, key=lambda key: number_of(key, "big"))[:count]
    crops = [_centre_crop(reader[key], crop_samples, sigma_data, with_lips) for key in sorted(keys)]
    lips = torch.stack([lips for _, lips in crops if lips is not None]) if with_lips else None
    return ValidationClips(torch.stack([audio for audio, _ in crops]), lips, tuple(sorted(keys)))


def _centre_crop(
    clip: Clip, crop_samples: int, sigma_data: float, with_lips: bool
) -> tuple[Tensor, Tensor | None]:
    """Audio (T,) and lips (V, D) of the middle of a clip, starting on a video frame."""
    per_frame = samples_per_frame(clip.sample_rate)
    first_frame = (len(clip.audio) - crop_samples) // 2 // per_frame
    start = first_frame * per_frame
    crop = clip.audio[start : start + crop_samples]
    level = np.sqrt(np.mean(np.square(clip.audio, dtype=np.float64)))
    audio = torch.from_numpy(crop * np.float32(sigma_data / max(level, 1e-8)))
    if not with_lips:
        return audio, None
    if clip.lips is None:
        raise DavssError(f"validation clip {clip.key}: has no lips; write the shards again")
    num_frames = frames_of(crop_samples, clip.sample_rate)
    return audio, torch.from_numpy(clip.lips[first_frame : first_frame + num_frames])


@torch.no_grad()
def validate(
    prior: nn.Module,
    clips: ValidationClips,
    sigma_data: float,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, float]:
    """Mean loss (`valid/loss…`) and gains in dB (`valid/gain…`, `valid/gain_over_spectrum…`) at
    each of SIGMAS and over all; the ranks share the clips.

    Every rank must call this and gets the same figures. `prior` is the EMA module, in eval mode.
    """
    device = next(prior.parameters()).device
    # per sigma: loss, and squared errors of the prior, the white and the spectral Wiener filter
    totals = torch.zeros(4, len(SIGMAS), dtype=torch.float64, device=device)
    mine = list(range(rank, len(clips.keys), world_size))
    spectrum = torch.fft.rfft(clips.audio).abs().square().mean(dim=0).to(device)
    for number, sigma in enumerate(SIGMAS):
        for begin in range(0, len(mine), batch_size):
            chosen = mine[begin : begin + batch_size]
            audio, lips, noise = _batch(clips, chosen, sigma, device)
            noisy = audio + sigma * noise
            error = _denoise(prior, audio, noisy, sigma, lips) - audio
            c_out_squared = sigma**2 * sigma_data**2 / (sigma**2 + sigma_data**2)
            totals[0, number] += (error.double().square().mean(-1) / c_out_squared).sum()
            white = noisy * (sigma_data**2 / (sigma**2 + sigma_data**2)) - audio
            coloured = wiener(noisy, sigma, spectrum) - audio
            for row, each in enumerate((error, white, coloured), start=1):
                totals[row, number] += each.double().square().mean(-1).sum()
    if world_size > 1:
        dist.all_reduce(totals)
    losses = (totals[0] / len(clips.keys)).tolist()
    return (
        _by_sigma("valid/loss", losses)
        | _by_sigma("valid/gain", _decibels(totals[2], totals[1]))
        | _by_sigma("valid/gain_over_spectrum", _decibels(totals[3], totals[1]))
    )


def wiener(noisy: Tensor, sigma: float, spectrum: Tensor) -> Tensor:
    """Denoiser (B, T) of stationary Gaussian signals: noisy (B, T) at sigma, spectrum (T/2 + 1,)
    their mean |DFT|².
    """
    length = noisy.shape[-1]
    gain = spectrum / (spectrum + sigma**2 * length)
    return torch.fft.irfft(gain * torch.fft.rfft(noisy), n=length)


def _by_sigma(name: str, values: list[float]) -> dict[str, float]:
    named = {f"{name}_sigma_{sigma:g}": v for sigma, v in zip(SIGMAS, values, strict=True)}
    return {name: float(np.mean(values)), **named}


def _decibels(baseline: Tensor, error: Tensor) -> list[float]:
    return (10 * torch.log10(baseline / error.clamp_min(1e-30))).tolist()


@torch.no_grad()
def examples(prior: nn.Module, clips: ValidationClips) -> dict[str, Tensor]:
    """The first clip clean, noisy and denoised at EXAMPLE_SIGMAS, each (T,) on the CPU, by name."""
    device = next(prior.parameters()).device
    signals = {"clean": clips.audio[0]}
    for sigma in EXAMPLE_SIGMAS:
        audio, lips, noise = _batch(clips, [0], sigma, device)
        noisy = audio + sigma * noise
        signals[f"noisy_sigma_{sigma:g}"] = noisy[0].cpu()
        signals[f"denoised_sigma_{sigma:g}"] = _denoise(prior, audio, noisy, sigma, lips)[0].cpu()
    return signals


def _batch(
    clips: ValidationClips, chosen: list[int], sigma: float, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Audio (B, T), lips (B, V, D) and unit noise (B, T), which depends on clip and sigma only."""
    noise = torch.empty(len(chosen), clips.audio.shape[1])
    for row, index in enumerate(chosen):
        seed = number_of(f"{clips.keys[index]} {sigma}", "big") >> 1
        generator = torch.Generator().manual_seed(seed)
        noise[row] = torch.randn(clips.audio.shape[1], generator=generator)
    lips = None if clips.lips is None else clips.lips[chosen].to(device)
    return clips.audio[chosen].to(device), lips, noise.to(device)


def _denoise(
    prior: nn.Module, audio: Tensor, noisy: Tensor, sigma: float, lips: Tensor | None
) -> Tensor:
    levels = torch.full((len(noisy),), sigma, device=noisy.device)
    if isinstance(prior, NoisePrior):  # which may know the spectrum of the recording
        return prior.of_recording(audio)(noisy, levels)
    return prior(noisy, levels, lips)
