"""Every container, by content: sound and picture of all, at their own rate, and cut short told."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from davss.errors import DavssError
from davss.media.audio import read_audio, read_sound
from davss.media.decoding import has_stream
from davss.media.video import Frames
from tests.media.making import RATE, grays, noise, numbers, write

X264, H263, VP8 = "libx264", "mpeg4", "libvpx"
CONTAINERS = {
    "mp4": (X264, "aac", RATE),
    "m4v": (X264, "aac", RATE),
    "mov": (X264, "pcm_s16le", 48_000),
    "mkv": (X264, "flac", 44_100),
    "webm": (VP8, "libopus", 48_000),
    "avi": (H263, "pcm_s16le", RATE),
    "3gp": (H263, "aac", RATE),
    "ts": (X264, "aac", RATE),
    "wmv": ("wmv2", "wmav2", 44_100),
    "flv": ("flv1", "aac", 44_100),
}
SOUNDS = {
    "m4a": ("aac", "ipod", 44_100),
    "mp3": ("libmp3lame", None, 22_050),
    "wma": ("wmav2", "asf", 44_100),
    "aac": ("aac", "adts", RATE),
    "opus": ("libopus", "ogg", 48_000),
    "flac": ("flac", None, 96_000),
    "caf": ("pcm_s16le", None, RATE),
    "wav": ("pcm_s24le", None, RATE),
    "w64": ("pcm_s16le", None, RATE),
    "aiff": ("pcm_s16be", None, RATE),
}


def make(folder: Path, kind: str, seconds: float = 1.0, **options: str) -> Path:
    """A recording of that kind, under a name that tells another."""
    path = folder / "x.wav"
    if kind in SOUNDS:
        codec, container, rate = SOUNDS[kind]
        return write(
            path, None, noise(seconds, rate), rate=rate, codecs=("", codec),
            container=container or kind, **options,
        )  # fmt: skip
    picture, sound, rate = CONTAINERS[kind]
    container = {"m4v": "mp4", "mkv": "matroska", "ts": "mpegts", "wmv": "asf"}.get(kind, kind)
    return write(
        path, grays(round(25 * seconds)), noise(seconds, rate), rate=rate, codecs=(picture, sound),
        container=container, **options,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [*CONTAINERS, *SOUNDS])
@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_sound_and_picture_of_every_kind(tmp_path, kind, seconds) -> None:
    path = make(tmp_path, kind, seconds)
    sound = read_sound(path)
    rate = (SOUNDS.get(kind) or CONTAINERS[kind])[2]
    assert sound.rate == rate and sound.missing == ""
    padding = 4 * 2048  # of encoders, where nothing says that it is to be hidden
    fewest = -2048 if kind in ("wma", "wmv") else -1  # their decoder leaves out its first block
    assert fewest <= sound.samples.shape[1] - round(seconds * rate) <= padding
    assert 0.05 < np.sqrt(np.mean(sound.samples**2)) < 0.15
    if kind in CONTAINERS:
        frames = Frames(path)
        assert numbers(list(frames)) == list(range(round(25 * seconds))) and not frames.missing
    assert has_stream(path, "video") == (kind in CONTAINERS)


@pytest.mark.parametrize("rate", [4000, 11_025, 47_999, 88_200, 176_400, 192_000, 384_000])
@pytest.mark.parametrize("kind", ["mov", "matroska", "wav"])
def test_any_rate_is_read_as_it_is(tmp_path, rate, kind) -> None:
    sound = noise(0.3, rate)
    write(tmp_path / "x", None, sound, rate=rate, codecs=("", "pcm_s16le"), container=kind)
    audio, found = read_audio(tmp_path / "x")
    assert (found, len(audio)) == (rate, sound.shape[1])
    assert len(read_audio(tmp_path / "x", 16_000)[0]) == math.ceil(len(audio) * 16_000 / rate)


@pytest.mark.parametrize("part", [0.5, 0.9, 0.97])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mp4", {"movflags": "faststart"}),
        ("mp4", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "250000"}),
        ("mkv", {}), ("webm", {}), ("avi", {}), ("wmv", {}), ("wma", {}),
        ("opus", {}), ("flac", {}), ("caf", {}), ("wav", {}), ("w64", {}), ("aiff", {}),
    ],
)  # fmt: skip
def test_what_was_cut_short_is_told_and_read(tmp_path, kind, options, part) -> None:
    path = make(tmp_path, kind, 3.0, **options)
    whole = path.read_bytes()
    before = read_sound(path).samples.shape[1]
    path.write_bytes(whole[: int(part * len(whole))])
    sound = read_sound(path)
    assert "x.wav: cut short: its " in sound.missing
    assert 0.1 * before < sound.samples.shape[1] <= before
    with pytest.raises(DavssError, match="x.wav: cut short: .*; give a whole one"):
        read_audio(path)


@pytest.mark.parametrize("part", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["mov", "mp4"])
def test_an_index_that_is_missing_is_named(tmp_path, kind, part) -> None:
    path = make(tmp_path, kind, 2.0)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    try:
        assert "cut short" in read_sound(path).missing
    except DavssError as error:
        assert "breaks off before its index is complete" in str(error)


def test_samples_promised_and_there_are_counted(tmp_path) -> None:
    soundfile.write(tmp_path / "x.wav", noise()[0], RATE, subtype="PCM_16")
    whole = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(whole[:-2001])
    promise = r"promises 16000 samples \(1.000 s\), the file holds 14999 \(0.937 s\)"
    with pytest.raises(DavssError, match=promise):
        read_audio(tmp_path / "x.wav")


def test_covers_and_foreign_files(tmp_path) -> None:
    write(tmp_path / "x.mp4", None, noise())
    assert not has_stream(tmp_path / "x.mp4", "video") and has_stream(tmp_path / "x.mp4", "audio")
    with pytest.raises(DavssError, match="x.mp4: has no moving picture; choose a file with one"):
        Frames(tmp_path / "x.mp4")
    for name, content, message in (
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nx.mp4\n", "not a recording that can be read"),
        ("page.wav", b"<!doctype html><html>" * 50, "a web page; the download went wrong"),
        ("empty.mp4", b"", "the file is empty"),
        ("text.wav", b"hello" * 100, "not a recording that can be read"),
        ("lfs.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DavssError, match=f"{name}: .*{message}"):
            read_audio(tmp_path / name)
    for path, message in ((tmp_path, "a folder; give a file"), (tmp_path / "x", "no such file")):
        with pytest.raises(DavssError, match=message):
            read_audio(path)


@pytest.mark.parametrize("seconds", [0.1, 0.333, 1.0])
def test_alac_in_caf_is_whole_to_the_sample(tmp_path, seconds) -> None:
    """FFmpeg writes a short last packet and reads its end away a second time."""
    path = write(tmp_path / "x.caf", sound=noise(seconds), codecs=("", "alac"))
    sound = read_sound(path)
    assert sound.missing == ""
    np.testing.assert_allclose(sound.samples, noise(seconds), atol=1e-4)
