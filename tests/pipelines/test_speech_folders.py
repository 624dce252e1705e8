"""Lines of a game into clips of speakers, without a params file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from davss.corpora import speech
from davss.errors import DavssError
from pipelines import speech_folders

ROOT = Path(__file__).parents[2]


def write_line(root, name, seconds, rate=22_050):
    path = root / "usr/share/games/fillets-ng/sound/atlantis/cs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))
    soundfile.write(path, audio.astype(np.float32), rate, format="OGG")


def test_lines_of_an_actor_are_put_one_behind_another(tmp_path):
    for number in range(4):
        write_line(tmp_path / "x", f"atl-m-{number}.ogg", 2.5)
    write_line(tmp_path / "x", "atl-v-0.ogg", 2.5)  # alone too short for a clip
    write_line(tmp_path / "x", "atl-x-noise.ogg", 9.0)  # no fish
    command = [sys.executable, "-m", "pipelines.speech_folders", "x", "out"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [clip] = speech.scan(tmp_path / "out", (1.0, 0.0, 0.0))
    assert clip.source == "fillets_cs_m/atlantis_000.flac"
    audio, rate = soundfile.read(clip.audio)
    assert rate == 16_000 and len(audio) == 3 * 2.5 * rate + 2 * rate // 5


def test_a_folder_without_the_game_is_refused(tmp_path):
    with pytest.raises(DavssError, match="unpack the packages there"):
        speech_folders.main([str(tmp_path), str(tmp_path / "out")])
