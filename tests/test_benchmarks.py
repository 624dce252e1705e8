"""What the benchmarks compute by themselves."""

import pandas
import torch

from benchmarks import scaling, strangers


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


def test_gaps_are_of_the_same_mixtures(tmp_path, capsys):
    models = {"mixture": 5.0, "nmf": 9.0, "priors/nf4-256": 8.5, "priors/nf4-512": 9.5}
    rows = pandas.DataFrame(
        {"noise_heard": "scene", "num_speakers": 1, "snr_db": 5.0, "item": item}
        | {"model": model, "si_sdr": level + item + (item * 0.1 if "-" in model else 0.0)}
        for item in (0, 1, 2)
        for model, level in models.items()
    )
    rows.to_csv(tmp_path / "rows.csv", index=False)
    scaling.main([str(tmp_path / "rows.csv"), "--out", str(tmp_path / "plot.svg")])
    shown = capsys.readouterr().out
    assert "| nf4 | 256 | nmf | −0.40 ± 0.25 |\n| nf4 | 512 | nmf | 0.60 ± 0.25 |" in shown
    assert "<svg" in (tmp_path / "plot.svg").read_text()
