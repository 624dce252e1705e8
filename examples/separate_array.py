"""Separate an array with the packaged priors: speech and noise of two sounds added here.

python examples/separate_array.py
"""

import torch

import davss

RATE = 8000  # any rate will do: signals are resampled to the priors' rate and back

time = torch.arange(2 * RATE) / RATE
pitch = 120 + 20 * torch.sin(2 * torch.pi * 0.7 * time)
voice = sum(torch.sin(k * 2 * torch.pi * pitch.cumsum(0) / RATE) / k for k in range(1, 20))
voice = voice * torch.sin(torch.pi * 2 * time).clamp(min=0)  # two syllables, with pauses
noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
mixture = voice / voice.std() + noise

separate = davss.Separator.small()
out = separate(mixture[None], sample_rate=RATE, keys=["example"], seed=0)
print("speech (B, K, T):", tuple(out.speech.shape), " noise (B, T):", tuple(out.noise.shape))
print(f"SI-SDR of the mixture {davss.si_sdr(mixture, voice).item():.1f} dB")
print(f"SI-SDR of the speech  {davss.si_sdr(out.speech[0, 0], voice).item():.1f} dB")
