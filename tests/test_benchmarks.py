"""What the benchmarks compute by themselves."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import soundfile
import torch

from benchmarks import scaling, side_by_side, strangers
from davss.corpora.demo import write_mp4
from davss.media.audio import read_audio
from davss.media.video import Frames


def test_voices_of_strangers_are_without_rumble():
    time = torch.arange(strangers.RATE) / strangers.RATE
    tone, rumble = (torch.sin(2 * torch.pi * f * time) for f in (300, 16))
    found = strangers.voice(tone + 3 * rumble)
    assert (found - tone / tone.std())[1000:-1000].abs().max() < 0.02


def test_the_recordings_of_strangers_are_damaged(monkeypatch):
    time = torch.arange(strangers.RATE) / strangers.RATE
    sounds = {"voice": 300, "noise": 5000}
    monkeypatch.setattr(
        strangers, "stretch", lambda _, name, start: torch.sin(2 * torch.pi * sounds[name] * time)
    )
    row = SimpleNamespace(
        num_speakers=1, speech_1="voice", start_1=0, speech_2="", start_2=0, noise="noise", start=0
    )
    row.item = 0
    voices, mixture = strangers.render(row, Path(), Path(), 5.0)
    _, heard = strangers.render(row, Path(), Path(), 5.0, "band:telephone")
    assert abs((mixture - voices[0]).std() - 10 ** (-5 / 20)) < 0.01
    assert heard[2000:-2000].std() < 1.05 < mixture.std()  # the noise is out of its band
    assert abs(torch.linalg.norm(voices[0]) - len(time) ** 0.5) < 1


@pytest.mark.parametrize("damage", ["blur:3", "opus", "rain:1"])
def test_damage_that_cannot_be_done_is_refused(damage, capsys):
    with pytest.raises(SystemExit):
        strangers.main(["speech", "noise", "--out", "x.csv", "--damage", damage])
    assert damage in capsys.readouterr().err.splitlines()[-1]


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


def test_two_people_side_by_side(tmp_path):
    """The video holds both pictures and the sum of both voices; the score sees swapped voices."""
    rng = np.random.default_rng(0)
    for name, grey in (("left", 60), ("right", 180)):
        frames = np.full((80, 64, 96, 3), grey, np.uint8)
        tone = np.sin(np.arange(51_200) * (0.1 if name == "left" else 0.3))
        write_mp4(tmp_path / f"{name}.mp4", frames, 0.2 * tone)
    pair, mixed = side_by_side.Pair("test", "left", "right", 10.0), tmp_path / "mixed.mp4"
    noise = rng.standard_normal(side_by_side.SECONDS * side_by_side.RATE)
    voices = side_by_side.write_pair(pair, tmp_path, noise, mixed)
    sound, frame = read_audio(mixed, side_by_side.RATE)[0], next(iter(Frames(mixed)))
    rest = sound[: voices.shape[1]] - voices.sum(axis=0)
    assert abs(20 * np.log10(voices[0].std() / rest.std()) - 10.0) < 1.5  # and what AAC adds
    assert frame.shape == (64, 192, 3) and frame[:, :90].mean() < 70 < 170 < frame[:, 100:].mean()

    out = tmp_path / "out"
    out.mkdir()
    (out / "separation.json").write_text(json.dumps({"faces": [{"lips": True}, {"lips": False}]}))
    for order, right in (((0, 1), True), ((1, 0), False)):
        for number, voice in enumerate(order, start=1):
            found = voices[voice] + 0.001 * noise
            soundfile.write(out / f"speaker_{number}.wav", found, side_by_side.RATE)
        found = side_by_side.scores(out, mixed, voices)
        assert found["faces_right"] == right and found["lips"] == "L"
        assert found["gained"] == (2 if right else 0) and abs(found["mixture"]) < 1.0
