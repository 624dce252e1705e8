"""Lines of a game into clips of speakers, without a params file."""

import numpy as np
import pytest
import soundfile

from davss.corpora import speech
from davss.errors import DavssError
from pipelines import speech_folders


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
    speech_folders.main([str(tmp_path / "x"), str(tmp_path / "out")])
    [clip] = speech.scan(tmp_path / "out", (1.0, 0.0, 0.0))
    assert clip.source == "fillets_cs_m/atlantis_000.flac"
    audio, rate = soundfile.read(clip.audio)
    assert rate == 16_000 and len(audio) == 3 * 2.5 * rate + 2 * rate // 5


def test_a_folder_without_the_game_is_refused(tmp_path):
    with pytest.raises(DavssError, match="unpack the packages there"):
        speech_folders.main([str(tmp_path), str(tmp_path / "out")])
