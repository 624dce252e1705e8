"""Files that are not what their name or their header says: each was heard as noise somewhere, or
called broken for a wrong reason.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from davss.errors import DavssError
from davss.media import headers
from davss.media.audio import read_sound
from davss.media.decoding import is_recording
from tests.media.making import RATE, noise, write


@pytest.mark.parametrize("name", ["x.raw", "x.au", "x.snd", "x.vox", "x.gsm"])
@pytest.mark.parametrize("kind", ["mp4", "wav"])
def test_a_name_of_headerless_sound_does_not_decide(tmp_path, name, kind) -> None:
    path = tmp_path / f"x.{kind}"
    write(path, None, noise(), codecs=("", "aac" if kind == "mp4" else "pcm_s16le"))
    whole = read_sound(path)
    path = path.rename(tmp_path / name)
    np.testing.assert_array_equal(read_sound(path).samples, whole.samples)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.vox", b"hello " * 999, "a text file"),
        ("x.gsm", b"hello " * 999, "a text file"),
        ("x.au", b"hello " * 999, "a text file"),
        ("x.raw", noise().tobytes(), "a header.*ffmpeg -f s16le"),
        ("x.PCM", noise().tobytes(), "a header.*ffmpeg -f s16le"),
        ("x.wav", b"\xff\x7f" * 999, "not a recording that can be read"),  # silence of µ-law
    ],
)
def test_what_is_no_sound_is_not_heard(tmp_path, name, content, reason) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DavssError, match=f"{name}: .*{reason}"):
        read_sound(tmp_path / name)


def test_telephone_sound_without_a_header_is_known_by_its_name(tmp_path) -> None:
    tone = 0.3 * np.sin(np.arange(8000) / 4)
    soundfile.write(tmp_path / "x.wav", tone, 8000, "GSM610")
    soundfile.write(tmp_path / "x.gsm", tone, 8000, "GSM610", format="RAW")
    soundfile.write(tmp_path / "x.vox", tone, 8000, "VOX_ADPCM", format="RAW")
    for name in ("x.gsm", "x.vox"):
        sound = read_sound(tmp_path / name)
        assert sound.rate == 8000 and 8000 <= sound.samples.shape[1] < 8200
        assert 0.18 < sound.samples.std() < 0.24
        assert is_recording(tmp_path / name)


def as_samples(path: Path, content: bytes) -> None:
    """A wav file that calls them stereo of 16 bits."""
    form = struct.pack("<IHHIIHH", 16, 1, 2, 48_000, 192_000, 4, 16)
    head = b"WAVEfmt " + form + b"data" + struct.pack("<I", len(content))
    path.write_bytes(b"RIFF" + struct.pack("<I", len(head) + len(content)) + head + content)


@pytest.mark.parametrize("lead", [0, 8192])
def test_surround_sound_that_a_wav_file_calls_samples(tmp_path, lead) -> None:
    """As recorders of S/PDIF have it: heard as it is, it is loud noise."""
    tone = 0.3 * np.sin(np.arange(96_000) / 10).astype(np.float32)
    path = tmp_path / "bits"
    write(path, None, np.stack([tone] * 2), rate=48_000, codecs=("", "ac3"), container="spdif")
    as_samples(tmp_path / "x.wav", bytes(lead) + path.read_bytes())
    samples = read_sound(tmp_path / "x.wav").samples
    assert 1.9 < samples.shape[1] / 48_000 < 2.2
    spectrum = np.abs(np.fft.rfft(samples[0, 8192:73_728])) ** 2
    peak = round(65_536 / 20 / np.pi)
    assert spectrum[peak - 9 : peak + 9].sum() > 0.98 * spectrum.sum()


@pytest.mark.parametrize("sync", ["7ffe8001", "fe7f0180", "1fffe800", "ff1f00e8"])
def test_dts_is_known_by_its_frames(tmp_path, sync) -> None:
    """There is no encoder to make some: what begins its frames, and anything after it."""
    frame = bytes.fromhex(sync) + np.random.default_rng(0).bytes(2008)
    as_samples(tmp_path / "x.wav", bytes(4096) + 9 * frame)
    assert headers.carries_bitstream(tmp_path / "x.wav")


def test_samples_that_look_like_surround_sound_once_are_samples(tmp_path) -> None:
    samples = (noise()[0] * 32767).astype("<i2")
    samples[700:702] = np.frombuffer(b"\xfe\x7f\x01\x80", "<i2")
    soundfile.write(tmp_path / "x.wav", samples, RATE)
    np.testing.assert_array_equal(read_sound(tmp_path / "x.wav").samples[0] * 32768, samples)


@pytest.mark.parametrize("tag", [b"drms", b"aavd"])
def test_a_book_or_song_with_a_lock_is_called_that(tmp_path, tag) -> None:
    path = write(tmp_path / "x.m4a", None, noise(), movflags="faststart")
    content = bytearray(path.read_bytes().replace(b"mp4a", tag, 1))
    begin = content.index(b"mdat") + 4
    content[begin:] = np.random.default_rng(0).bytes(len(content) - begin)
    path.write_bytes(content)
    with pytest.raises(DavssError, match="its sound is encrypted"):
        read_sound(path)


def test_windows_media_with_a_lock_is_called_that(tmp_path) -> None:
    path = write(tmp_path / "x.wma", None, noise(4.0), codecs=("", "wmav2"), container="asf")
    content = path.read_bytes()
    assert not read_sound(path).missing
    length, count = struct.unpack("<QI", content[16:28])
    lock = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e") + struct.pack("<Q16x", 40)
    header = content[:16] + struct.pack("<QI", length + len(lock), count + 1) + content[28:length]
    path.write_bytes(header + lock + content[length:])
    with pytest.raises(DavssError, match="its sound is encrypted"):
        read_sound(path)


def test_packets_that_cannot_be_decoded_up_to_the_end_are_told(tmp_path) -> None:
    """Of a stream that promises no length; it was taken for a short one."""
    path = write(tmp_path / "x.aac", None, noise(4.0), container="adts")
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content) - 16):
        if content[at : at + 2] == b"\xff\xf1":  # the header of a frame is left as it is
            content[at + 7 : at + 16] = bytes(9)
    path.write_bytes(content)
    assert "packets of its sound cannot be decoded" in read_sound(path).missing
