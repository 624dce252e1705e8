"""Speakers in folders, without video."""

from pathlib import Path

import pytest

from davss.corpora import speech
from davss.errors import DavssError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_speaker_stays_in_one_split(tmp_path):
    touch(tmp_path, *(f"{s}/{c}/{s}-{c}-{n}.flac" for s in range(60) for c in (1, 2) for n in (1,)))
    clips = list(speech.scan(tmp_path, (0.5, 0.25, 0.25)))
    assert len(clips) == 120
    splits = {}
    for clip in clips:
        assert splits.setdefault(clip.speaker, clip.split) == clip.split
    assert set(splits.values()) == {"train", "valid", "test"}
    assert all(clip.video is None for clip in clips)


def test_what_is_no_recording_of_a_speaker_is_told(tmp_path, capsys):
    touch(tmp_path, "a/1.flac", "a/1.txt", "loose.wav")
    assert [clip.source for clip in speech.scan(tmp_path, (1.0, 0.0, 0.0))] == ["a/1.flac"]
    assert "2 files left out" in capsys.readouterr().err


def test_a_folder_without_speakers_is_refused(tmp_path):
    touch(tmp_path, "loose.wav")
    with pytest.raises(DavssError, match="SPEAKER"):
        list(speech.scan(tmp_path, (1.0, 0.0, 0.0)))
    with pytest.raises(DavssError, match="do not sum to 1"):
        touch(tmp_path, "a/1.wav")
        list(speech.scan(tmp_path, (0.5, 0.0, 0.0)))


def test_clips_are_found_from_another_folder(tmp_path, monkeypatch):
    """As by the workers of a Ray that was started elsewhere on this machine."""
    touch(tmp_path, "corpus/a/1.flac")
    monkeypatch.chdir(tmp_path)
    (clip,) = speech.scan(Path("corpus"), (1.0, 0.0, 0.0))
    assert clip.audio == tmp_path / "corpus" / "a" / "1.flac"
