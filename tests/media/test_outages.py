"""Disks and network shares that fail while a recording is read: no recording is blamed for it."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
import soundfile

from davss.cli.inputs import find_recordings
from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError, StorageError, ending_in_one_line
from davss.media import decoding
from davss.media.audio import read_sound
from davss.media.video import Frames
from davss.shards.writer import write_piece
from davss.storage import LocalStore
from tests.media.making import RATE, grays, noise, write

GONE = "x.mp4: Transport endpoint is not connected; the disk or share that it is on fails"


@pytest.fixture
def leaves(monkeypatch):
    """A function that has files of recordings fail from a place on, as those of a mount that is
    lost do.
    """
    with socket.socket() as lost:

        def set_place(place: int) -> None:
            class Lost(decoding._File):
                def readinto(self, buffer):
                    if self.tell() >= place:
                        os.dup2(lost.fileno(), self.fileno())
                    return super().readinto(buffer)

            monkeypatch.setattr(decoding, "_File", Lost)

        yield set_place


@pytest.mark.parametrize("part", [0.0, 0.6])
def test_a_share_that_is_lost_is_no_recording_cut_short(tmp_path, leaves, part) -> None:
    path = write(tmp_path / "x.mp4", grays(75), noise(3.0), movflags="faststart")
    leaves(int(part * path.stat().st_size))
    with pytest.raises(StorageError, match=GONE):
        read_sound(path)
    with pytest.raises(StorageError, match=GONE):
        Frames(path)
    with pytest.raises(StorageError, match=GONE):  # it is not left out of its folder
        find_recordings([tmp_path], tmp_path / "out")


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_file_that_the_system_does_not_open(tmp_path, monkeypatch, code) -> None:
    def fail(path):
        raise OSError(code, os.strerror(code), str(path))

    soundfile.write(tmp_path / "x.wav", noise()[0], RATE)
    clip = RawClip("a", "test", "s", "x.wav", tmp_path / "x.wav", None)
    store = LocalStore(tmp_path / "storage")
    monkeypatch.setattr("davss.shards.writer.version", lambda clip: "")
    monkeypatch.setattr("davss.shards.writer.contents", lambda local: fail(local.audio))
    with pytest.raises(StorageError, match="x.wav: "):
        write_piece([clip], "p/0000", store, ShardsConfig(), None)
    monkeypatch.setattr(Path, "stat", fail)
    mend = "ulimit -n" if code == errno.EMFILE else "see to that and run it again"
    with pytest.raises(StorageError, match=mend):
        read_sound(tmp_path / "x.wav")


def test_an_outage_anywhere_is_one_line(capsys) -> None:
    with pytest.raises(SystemExit) as end, ending_in_one_line():
        raise OSError(errno.EIO, "Input/output error", "shards.parquet")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: shards.parquet: Input/output error; the disk")


def test_what_is_no_matter_of_permissions(tmp_path) -> None:
    (tmp_path / "x.wav").symlink_to("x.wav")
    with pytest.raises(DavssError, match="Too many levels of symbolic links.*check the path"):
        read_sound(tmp_path / "x.wav")
