"""`davss separate`, `info` and `validate` as their user runs them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from davss.cli import main
from davss.diffusion.prior import save_prior
from tests.priors import make_noise_prior, make_speech_prior


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    save_prior(make_speech_prior(), folder / "speech")
    save_prior(make_noise_prior(), folder / "noise")
    noise = 0.1 * np.random.default_rng(0).standard_normal(16001)
    soundfile.write(folder / "mix.wav", noise, 16000)
    soundfile.write(folder / "blip.wav", noise[:100], 16000)
    soundfile.write(folder / "silence.wav", np.zeros(16000), 16000)
    return folder


def arguments(folder, recording="mix.wav", **changes):
    flags = {
        "--speech-prior": str(folder / "speech"),
        "--noise-prior": str(folder / "noise"),
        "--out": str(folder / "out"),
        "--num-steps": "3",
        "--device": "cpu",
    } | changes
    flat = [part for item in flags.items() for part in item]
    return ["separate", str(folder / recording), *flat]


def test_separate_writes_what_it_says(folder, capsys):
    main(arguments(folder, **{"--speakers": "1", "--off-screen": "1"}))
    report = json.loads((folder / "out" / "separation.json").read_text())
    assert report["files"] == ["speaker_1.wav", "speaker_2.wav", "noise.wav"]
    assert report["sampler"]["num_steps"] == 3 and report["seconds"] == 16001 / 16000
    for name in report["files"]:
        audio, rate = soundfile.read(folder / "out" / name)
        assert (audio.shape, rate) == ((16001,), 16000)
    assert "speaker_1.wav" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recording", "changes", "message"),
    [
        ("missing.wav", {}, "missing.wav"),
        ("silence.wav", {}, "silence.wav: audio is silent"),
        ("mix.wav", {"--speech-prior": "nowhere"}, "nowhere: no prior here"),
        ("mix.wav", {"--num-steps": "0"}, "separate.num_steps"),
        ("mix.wav", {"--lips": "face.mp4"}, "face.mp4"),
        ("mix.wav", {"--speakers": "-1"}, "--speakers"),
        ("mix.wav", {"--device": "abacus"}, "--device abacus: cannot be used here"),
        ("blip.wav", {}, "blip.wav: lasts 0.006 s"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    folder, tmp_path, capsys, recording, changes, message
):
    with pytest.raises(SystemExit) as error:
        main(arguments(folder, recording, **{"--out": str(tmp_path / "out")} | changes))
    lines = capsys.readouterr().err.strip().splitlines()
    assert error.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_noticed_before_the_work(folder, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit):
        main(arguments(folder, **{"--out": str(tmp_path / "out")}))
    assert "a file of that name is in the way" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_swapped_priors_are_named(folder, capsys):
    swapped = {"--speech-prior": str(folder / "noise"), "--noise-prior": str(folder / "speech")}
    with pytest.raises(SystemExit):
        main(arguments(folder, **swapped))
    assert "swap the two" in capsys.readouterr().err


def test_info(folder, capsys):
    main(["info", str(folder / "speech")])
    described = json.loads(capsys.readouterr().out)
    assert described["kind"] == "speech" and described["parameters"] > 1000


def test_help_answers_quickly():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "davss.cli", "separate", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--noise-prior" in done.stdout and "torch" not in done.stderr
