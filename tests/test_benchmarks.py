"""What the benchmarks compute by themselves."""

import torch

from benchmarks import strangers


def test_voices_of_strangers_are_without_rumble():
    time = torch.arange(strangers.RATE) / strangers.RATE
    tone, rumble = (torch.sin(2 * torch.pi * f * time) for f in (300, 16))
    found = strangers.voice(tone + 3 * rumble)
    assert (found - tone / tone.std())[1000:-1000].abs().max() < 0.02
