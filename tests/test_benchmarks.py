"""The benchmark's command runs, and its two samplers agree."""

import torch

from benchmarks import strangers
from benchmarks.sampler import main


def test_the_samplers_of_the_benchmark_agree(capsys):
    tiny = ["--nf", "8", "--seconds", "0.2", "--steps", "2", "--repeats", "1", "--speakers", "1"]
    main([*tiny, "--guidance-weights", "0.5"])
    header, rule, *rows = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[1] for row in cells] == ["0.5"]
    assert header.count("|") == rule.count("|") == rows[0].count("|")
    assert all(float(row[-2]) > 0 and float(row[-1]) < 1e-4 for row in cells)


def test_voices_of_strangers_are_without_rumble():
    time = torch.arange(strangers.RATE) / strangers.RATE
    tone, rumble = (torch.sin(2 * torch.pi * f * time) for f in (300, 16))
    found = strangers.voice(tone + 3 * rumble)
    assert (found - tone / tone.std())[1000:-1000].abs().max() < 0.02
