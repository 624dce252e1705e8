"""A speaker's own video: the picture as it was, the track where it belongs."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from davss.cli.muxing import loudest, mux, video_suffix
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


def test_a_folder_called_by_the_time_of_day(tmp_path, monkeypatch):
    """FFmpeg takes what stands before a colon for a protocol."""
    monkeypatch.chdir(tmp_path)
    write(Path("x.mp4"), grays(10), noise(0.4))
    Path("10:30").mkdir()
    soundfile.write("10:30/track.wav", noise(0.4)[0], RATE)
    mux(Path("x.mp4"), Path("10:30/track.wav"), 0.0, Path("10:30/out.mp4"))
    assert packets(tmp_path / "10:30" / "out.mp4") == packets(tmp_path / "x.mp4")


def test_what_is_louder_than_full_scale_is_not_clipped(tmp_path):
    """As recorders of 32 bits have it; tracks stay as loud to each other as they are."""
    video = write(tmp_path / "x.mp4", grays(50), noise(2.0))
    tone = np.sin(np.arange(2 * RATE) / 10).astype(np.float32)
    tracks = {}
    for name, level in (("a", 8.0), ("b", 0.8)):
        tracks[name] = tmp_path / f"{name}.wav"
        soundfile.write(tracks[name], level * tone, RATE, "FLOAT")
    peak = loudest(tracks.values())
    assert abs(peak - 8) < 0.01 and loudest([tracks["b"]]) == 1
    levels = {}
    for name, track in tracks.items():
        mux(video, track, 0.0, tmp_path / f"{name}.mp4", peak)
        heard = read_sound(tmp_path / f"{name}.mp4").samples[0, 4000:28_000]
        levels[name] = heard.std()
        spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)))) ** 2
        assert spectrum.max() * 4 > spectrum.sum()  # a tone; clipped, it has overtones
        assert spectrum[2 * spectrum.argmax() :].sum() < 1e-3 * spectrum.sum()
    assert abs(levels["a"] - 0.707) < 0.07 and abs(levels["a"] / levels["b"] - 10) < 1


def test_without_a_picture_it_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.wav", noise()[0], RATE)
    with pytest.raises(DavssError, match="x.wav: has no moving picture.*; leave --mux out"):
        video_suffix(tmp_path / "x.wav")
