"""What `davss separate` is given: any file, folder or pipe, and what is said about it."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile

from davss.cli import main
from davss.cli.inputs import find_recordings, on_disk, plan_speakers, read_lips, read_recording
from davss.errors import DavssError
from tests.media.making import RATE, grays, noise, write


class Mouths:
    """A face finder that takes the picture's first gray level for its crop."""

    def __call__(self, frames, name):
        return SimpleNamespace(crops=np.array([frame[0, 0, 0] for frame in frames]))


@pytest.fixture
def prior(monkeypatch):
    """A speech prior whose feature is the number of the frame."""
    monkeypatch.setattr("davss.cli.inputs.MouthFinder", Mouths)
    return SimpleNamespace(visual_encoder=lambda crops: ((crops - 16.0) / 4)[:, None])


def wav(path: Path, seconds: float = 1.0) -> Path:
    soundfile.write(path, noise(seconds)[0], RATE, format="WAV")
    return path


def test_lips_are_where_the_picture_is(tmp_path, prior):
    path = write(tmp_path / "x.mp4", grays(50), noise(3.0), times=0.4 + np.arange(50) / 25)
    recording = read_recording(path)
    lips = read_lips(path, prior, recording)[:, 0]
    assert lips.shape == (75,)
    assert np.isnan(lips[:10]).all() and np.isnan(lips[60:]).all()
    assert np.abs(lips[10:60] - np.arange(50)).max() < 0.8
    assert recording.notes == [f"{path}: no picture for 1.00 s, separated without lips"]


def test_lips_of_another_file_longer_or_shorter(tmp_path, prior):
    face = write(tmp_path / "face.mp4", grays(40), times=np.arange(40) / 30)
    recording = read_recording(wav(tmp_path / "x.wav", 2.0))
    lips = read_lips(face, prior, recording)[:, 0]
    assert np.isfinite(lips[:33]).all() and np.isnan(lips[34:]).all()
    assert f"{face}: 30 frames per second; of each 1/25 s the nearest frame" in recording.notes[0]
    short = read_recording(wav(tmp_path / "y.wav", 0.5))
    assert np.isfinite(read_lips(face, prior, short)).all() and len(short.notes) == 1


def test_lips_of_another_file_begin_with_its_sound(tmp_path, prior):
    recording = read_recording(wav(tmp_path / "x.wav"))
    face = write(tmp_path / "face.mkv", grays(50), noise(1.6), sound_start=0.4)
    assert np.abs(read_lips(face, prior, recording)[:, 0] - np.arange(10, 35)).max() < 0.8


def test_several_pictures_are_told(tmp_path, prior):
    """As meetings are recorded: the screen, and the camera beside it."""
    write(tmp_path / "one.mkv", grays(25), noise())
    write(tmp_path / "x.mkv", grays(25), noise(), picture_tracks=2)
    for name, told in (("one.mkv", []), ("x.mkv", ["2 tracks of pictures, number 0 is looked at"])):
        recording = read_recording(tmp_path / name)
        read_lips(tmp_path / name, prior, recording)
        assert [line.split(": ")[1].split(";")[0] for line in recording.warnings] == told


def test_where_no_face_is_found_the_way_on_is_named(tmp_path):
    slides = write(tmp_path / "x.mp4", grays(25), noise())
    with pytest.raises(DavssError, match=r"x.mp4: no face found.*; or separate it by its sound "):
        read_lips(slides, SimpleNamespace(), read_recording(slides))
    assert plan_speakers(slides, [], 1, 0) == ([], 1)  # the way that is named
    alone = write(tmp_path / "y.mp4", None, noise())
    assert plan_speakers(alone, [], None, 0) == ([], 1)
    with pytest.raises(DavssError, match="y.mp4: has no moving picture.*--speakers 1"):
        read_lips(alone, SimpleNamespace(), read_recording(wav(tmp_path / "x.wav")))


def test_a_recording_cut_short_is_read_and_said(tmp_path):
    path = wav(tmp_path / "x.wav")
    path.write_bytes(path.read_bytes()[:-16_000])
    recording = read_recording(path)
    assert len(recording.audio) == 8000
    assert "8000 (0.500 s); separating what there is" in recording.warnings[0]


def test_what_could_not_be_decoded_is_not_called_silent(tmp_path):
    """As of recorders that leave out what ends a packet: of the speech nothing is heard."""
    path = write(tmp_path / "x.mp4", None, np.pad(noise(), ((0, 0), (RATE, 0))))
    damaged = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            if packet.size and packet.pts * packet.time_base > 0.9:
                damaged[packet.pos : packet.pos + packet.size] = packet.size * b"\xff"
    path.write_bytes(damaged)
    with pytest.raises(DavssError, match=r"x.mp4: cut short: .*, all of it silence; look for"):
        read_recording(path)


def test_channels(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([np.zeros(RATE), noise()[0]], 1), RATE)
    recording = read_recording(path)
    assert "1 of 2 channels are silent; taken: channel 1" in recording.warnings[0]
    assert not read_recording(path, 1).warnings
    with pytest.raises(DavssError, match="x.wav: channel 0 is silent; give another or none"):
        read_recording(path, 0)
    soundfile.write(path, np.zeros((RATE, 2)), RATE)
    with pytest.raises(DavssError, match="x.wav: audio is silent; there is nothing to hear in it"):
        read_recording(path)


@pytest.mark.parametrize("given", ["-", "fifo"])
def test_pipes(tmp_path, monkeypatch, given):
    content = wav(tmp_path / "x.wav").read_bytes()
    path = Path("-")
    if given == "fifo":
        path = tmp_path / "fifo"
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=[content], daemon=True).start()
    else:
        stdin = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", stdin)
    with on_disk(path) as file:
        assert file.stem == "stdin"  # the random numbers depend on the name
        assert len(read_recording(file).audio) == RATE
    assert not file.exists()


def test_errors_name_what_was_given(monkeypatch):
    stdin = SimpleNamespace(buffer=io.BytesIO(b"hello" * 9), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    with (
        pytest.raises(DavssError, match="^-: a text file, not a recording"),
        on_disk(Path("-")) as file,
    ):
        read_recording(file)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(DavssError, match="^-: standard input is a terminal"), on_disk(Path("-")):
        pass


def test_several_and_folders(tmp_path, capsys):
    out, folder = tmp_path / "out", tmp_path / "in"
    folder.mkdir()
    first, second = wav(folder / "a.wav"), wav(folder / "b.wav")
    (folder / "notes.txt").write_text("hello")
    places = [(first, out / "a"), (second, out / "b")]
    assert find_recordings([first], out) == [(first, out)]
    assert find_recordings([first, second], out) == places
    assert find_recordings([folder], out) == places
    assert "without sound, left out: notes.txt" in capsys.readouterr().err
    with pytest.raises(DavssError, match="both would be written to"):
        find_recordings([folder, wav(tmp_path / "a.wav")], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DavssError, match="no recording in this folder"):
        find_recordings([tmp_path / "empty"], out)
    (tmp_path / "empty/a.wav").write_text("version https://git-lfs.github.com/spec/v1\n")
    pointer = tmp_path / "empty/a.wav"
    assert find_recordings([tmp_path / "empty"], out) == [(pointer, out / "a")]


def test_what_cannot_be_read_is_not_left_out_of_its_folder(tmp_path, capsys):
    """Only what has no sound is: of the others their errors are said."""
    whole = write(tmp_path / "whole.mp4", grays(25), noise())
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "lost.wav").symlink_to("nowhere.wav")
    (tmp_path / "notes.wav").write_text("hello")
    (tmp_path / "._whole.mp4").write_bytes(b"\0\5\26\7")  # as macOS puts beside each
    (tmp_path / "notes.txt").write_text("hello")
    write(tmp_path / "mute.mp4", grays(25))
    found = [path.name for path, _ in find_recordings([tmp_path], tmp_path)]
    assert found == ["cut.mp4", "lost.wav", "notes.wav", "whole.mp4"]
    assert "left out: ._whole.mp4, mute.mp4, notes.txt" in capsys.readouterr().err


def test_what_is_given_twice_is_separated_once(tmp_path):
    first, second = wav(tmp_path / "a.wav"), wav(tmp_path / "b.wav")
    again = tmp_path / "x" / ".." / "a.wav"
    (tmp_path / "x").mkdir()
    assert find_recordings([first, again], tmp_path) == [(first, tmp_path)]
    places = [(first, tmp_path / "a"), (second, tmp_path / "b")]
    assert find_recordings([first, tmp_path, second], tmp_path) == places


def test_recordings_that_differ_in_their_ending_have_a_folder_each(tmp_path):
    """As a camera's picture and the sound of a recorder beside it."""
    first, second, third = (wav(tmp_path / name) for name in ("a.MOV", "a.wav", "b.wav"))
    out = tmp_path / "out"
    places = [(first, out / "a.MOV"), (second, out / "a.wav"), (third, out / "b")]
    assert find_recordings([tmp_path], out) == places
    (tmp_path / "other").mkdir()
    with pytest.raises(DavssError, match="both would be written to .*a.wav; separate them one at"):
        find_recordings([tmp_path, wav(tmp_path / "other/a.wav")], out)


@pytest.mark.parametrize("name", ["...wav", "..wav"])
def test_nothing_is_written_outside_of_out(tmp_path, name):
    paths = [wav(tmp_path / name), wav(tmp_path / "b.wav")]
    places = find_recordings(paths, tmp_path / "out")
    assert places == [(paths[0], tmp_path / "out" / name), (paths[1], tmp_path / "out/b")]


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch, capsys):
    """As that of a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    recording = str(wav(tmp_path / "a.wav"))
    for given in (["", "--out", "out"], [recording, "--out", ""]):
        with pytest.raises(SystemExit) as end:
            main(["separate", *given])
        assert end.value.code == 2 and "an empty name; is a variable" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.wav"]


def test_addresses_are_no_files(capsys):
    for address in ("https://example.org/a.wav", "s3://bucket/a.wav"):
        with pytest.raises(SystemExit) as end:
            main(["separate", address, "--out", "out"])
        said = capsys.readouterr().err
        assert end.value.code == 2 and f"{address}: an address; give a file or folder" in said


def test_a_device_that_never_ends(tmp_path):
    with pytest.raises(DavssError, match="/dev/zero: a device, which may never end"):
        on_disk(Path("/dev/zero")).__enter__()


def test_a_single_sample_is_short_and_not_silent(tmp_path):
    soundfile.write(tmp_path / "x.wav", [0.5], RATE)
    with pytest.raises(DavssError, match=r"x.wav: lasts 0.000 s; give at least 0.1 s"):
        read_recording(tmp_path / "x.wav")


def test_a_name_with_a_line_break_is_one_line(tmp_path, capsys):
    (tmp_path / "a\nb\x1b[2J.wav").write_text("hello")
    with pytest.raises(SystemExit):
        main(["separate", str(tmp_path / "a\nb\x1b[2J.wav"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and r"a\nb\x1b[2J.wav: a text file" in said
    recording = read_recording(wav(tmp_path / "c\nd.wav"))
    recording.warnings.append(f"{recording.path}: odd")
    recording.print(recording.path)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_of_several_one_that_fails_keeps_no_other(tmp_path, monkeypatch, capsys):
    first, second = wav(tmp_path / "a.wav"), wav(tmp_path / "c.wav")
    (tmp_path / "b.wav").write_text("hello")
    made = []

    def separate_file(recording, out, _):
        read_recording(recording)
        made.append(out)
        return {"files": ["noise.wav"]}

    monkeypatch.setattr("davss.cli.application.separate_file", separate_file)
    given = [str(first), str(tmp_path / "b.wav"), str(second)]
    with pytest.raises(SystemExit) as end:
        main(["separate", *given, "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert end.value.code == 2 and made == [tmp_path / "out/a", tmp_path / "out/c"]
    assert "error: " in said.err and "1 of 3 recordings were not separated; see above" in said.err
    assert str(tmp_path / "out/c/noise.wav") in said.out
    with pytest.raises(SystemExit):
        main(["separate", *given, "--lips", "x.mp4", "--out", str(tmp_path / "out")])
    assert "--lips: goes with one recording" in capsys.readouterr().err
