"""`davss separate` of every kind of file: all of its sound, sample by sample, at its own rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from davss.cli import main
from davss.diffusion.prior import save_prior
from davss.media.audio import read_sound
from tests.media.test_formats import CONTAINERS, SOUNDS, make
from tests.priors import make_noise_prior, make_speech_prior


@pytest.fixture(scope="module")
def priors(tmp_path_factory) -> list[str]:
    """Flags that name tiny ones."""
    folder = tmp_path_factory.mktemp("priors")
    save_prior(make_speech_prior(), folder / "speech")
    save_prior(make_noise_prior(), folder / "noise")
    return ["--speech-prior", f"{folder}/speech", "--noise-prior", f"{folder}/noise"]


@pytest.mark.parametrize("kind", [*CONTAINERS, *SOUNDS])
def test_every_kind_is_separated(tmp_path: Path, priors, kind, capsys):
    path = make(tmp_path, kind)
    flags = [*priors, "--num-steps", "1", "--num-samples", "1", "--device", "cpu"]
    main(["separate", str(path), "--out", str(tmp_path / "out"), *flags])
    sound = read_sound(path)
    for name in ("speaker_1", "noise"):
        found = soundfile.info(tmp_path / "out" / f"{name}.wav")
        assert (found.frames, found.samplerate) == (sound.samples.shape[1], sound.rate)
    assert ("no face is found" in capsys.readouterr().err) == (kind in CONTAINERS)
