"""What the benchmarks compute by themselves."""

import torch

from benchmarks import strangers


def test_voices_of_strangers_are_without_rumble():
    time = torch.arange(strangers.RATE) / strangers.RATE
    tone, rumble = (torch.sin(2 * torch.pi * f * time) for f in (300, 16))
    found = strangers.voice(tone + 3 * rumble)
    assert (found - tone / tone.std())[1000:-1000].abs().max() < 0.02


def test_thin_voices_lack_what_lies_low():
    time = torch.arange(strangers.RATE) / strangers.RATE
    low, high = (torch.sin(2 * torch.pi * f * time) for f in (300, 4800))
    level = torch.fft.rfft(strangers.voice(low + high, thin=1200.0)).abs()
    assert abs(20 * torch.log10(level[300] / level[4800]) + 24.0) < 1.0  # two octaves
