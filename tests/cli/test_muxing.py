"""A speaker's own video: the picture as it was, the track where it belongs."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from davss.cli.muxing import mux, video_suffix
from davss.errors import DavssError
from davss.media.audio import read_sound
from davss.media.video import Frames
from tests.media.making import RATE, grays, noise, numbers, write


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(
    ("codec", "name", "suffix"),
    [("libx264", "x.mp4", ".mp4"), ("libvpx", "x.webm", ".mkv"), ("mpeg4", "x.avi", ".mp4")],
)
@pytest.mark.parametrize("rate", [8000, 44100])
def test_the_picture_is_copied_and_the_track_is_in_time(tmp_path, codec, name, suffix, rate):
    sound_codec = {"x.webm": "libopus", "x.avi": "pcm_s16le"}.get(name, "aac")
    at = 48_000 if name == "x.webm" else RATE
    video = write(tmp_path / name, grays(50), noise(2.0, at), rate=at, codecs=(codec, sound_codec))
    click = np.zeros(2 * rate, np.float32)
    click[rate : rate + 40] = 0.5  # at 1 s
    soundfile.write(tmp_path / "track.wav", click, rate, subtype="FLOAT")
    target = tmp_path / f"out{video_suffix(video)}"
    mux(video, tmp_path / "track.wav", read_sound(video).start, target)
    assert target.suffix == suffix and packets(target) == packets(video)
    sound = read_sound(target)
    assert not sound.missing and abs(sound.samples.shape[1] / sound.rate - 2) < 0.05
    assert abs(np.abs(sound.samples[0]).argmax() / sound.rate - 1) < 0.01
    assert numbers(list(Frames(target)))[:48] == numbers(list(Frames(video)))[:48]


@pytest.mark.parametrize("late", [0.4, -0.4])
def test_a_picture_that_begins_later_or_earlier_stays_so(tmp_path, late):
    times = max(late, 0) + np.arange(40) / 25
    video = write(tmp_path / "x.mkv", grays(40), noise(2.0), times=times, sound_start=-min(late, 0))
    start = read_sound(video).start
    before = Frames(video, start)
    soundfile.write(tmp_path / "track.wav", noise(2.0)[0], RATE)
    mux(video, tmp_path / "track.wav", start, tmp_path / "out.mp4")
    after = Frames(tmp_path / "out.mp4", start)  # neither clock begins before 0
    assert abs(after.first - before.first) <= 1
    at = 12 - after.first, 12 - before.first
    assert abs(numbers([list(after)[at[0]]])[0] - numbers([list(before)[at[1]]])[0]) <= 1


def test_without_a_picture_it_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.wav", noise()[0], RATE)
    with pytest.raises(DavssError, match="x.wav: has no moving picture.*; leave --mux out"):
        video_suffix(tmp_path / "x.wav")
