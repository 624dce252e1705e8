"""Wav headers that do not know how much sound follows: it is read to the end of the file."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile

from davss.errors import DavssError
from davss.media.audio import read_audio, read_sound
from tests.media.making import RATE, noise

SIZES = [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36]


def set_sizes(path, riff: int, data: int) -> None:
    whole = bytearray(path.read_bytes())
    place = whole.index(b"data") + 4
    whole[4:8], whole[place : place + 4] = struct.pack("<I", riff), struct.pack("<I", data)
    path.write_bytes(whole)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("size", SIZES)
def test_a_size_that_is_not_known(tmp_path, size, subtype) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(channels=2).T, RATE, subtype=subtype)
    whole = read_sound(path).samples
    set_sizes(path, size, size)
    sound = read_sound(path)
    assert sound.rate == RATE and sound.missing == ""
    np.testing.assert_array_equal(sound.samples, whole)


def test_more_sound_than_32_bits_can_say(tmp_path) -> None:
    """A sparse file of 4 GiB and a second: only its length is looked at."""
    from davss.media.headers import claimed_sound

    path = tmp_path / "x.wav"
    soundfile.write(path, noise()[0], RATE, subtype="PCM_16")
    with open(path, "r+b") as file:
        file.truncate((1 << 32) + path.stat().st_size)
    assert claimed_sound(path) is None


def test_an_empty_wav_is_empty_and_one_with_later_chunks_is_whole(tmp_path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(0), RATE, subtype="PCM_16")
    with open(path, "ab") as file:
        file.write(b"LIST" + struct.pack("<I", 4) + b"INFO")
    with pytest.raises(DavssError, match="x.wav: holds no audio samples; nothing was recorded"):
        read_audio(path)
    soundfile.write(path, noise()[0], RATE, subtype="PCM_16")
    with open(path, "ab") as file:
        file.write(b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert len(read_audio(path)[0]) == RATE


def test_a_header_without_sound_was_cut(tmp_path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise()[0], RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:44])
    with pytest.raises(DavssError, match="promises 16000 samples .*holds 0 .*; look for another"):
        read_audio(path)


def pieces(*lengths: int) -> tuple[np.ndarray, list[bytes]]:
    """Sound (T,) and wav files of 16 bits of its pieces."""
    sound = (noise()[0, : sum(lengths)] * 32767).astype("<i2")
    header = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    wavs = []
    for part in np.split(sound, np.cumsum(lengths)[:-1]):
        chunks = b"WAVE" + header + b"data" + struct.pack("<I", 2 * len(part)) + part.tobytes()
        wavs.append(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    return sound / np.float32(32768), wavs


@pytest.mark.parametrize("between", ["", "chunk", "file"])
def test_several_chunks_of_sound_are_all_read(tmp_path, between) -> None:
    sound, wavs = pieces(8000, 5000, 3000)
    start, extra = {"": (36, b""), "chunk": (36, b"LIST\4\0\0\0INFO"), "file": (0, b"")}[between]
    path = tmp_path / "x.wav"
    path.write_bytes(wavs[0] + b"".join(extra + wav[start:] for wav in wavs[1:]))
    found = read_sound(path)
    assert found.missing == ""
    np.testing.assert_array_equal(found.samples[0], sound)


def test_pieces_of_different_formats_are_all_read(tmp_path) -> None:
    sound, wavs = pieces(8000)
    other = np.stack([sound[::2], sound[::2]], axis=1)
    soundfile.write(tmp_path / "x.wav", other, RATE // 2, subtype="FLOAT")
    path = tmp_path / "x.wav"
    path.write_bytes(wavs[0] + path.read_bytes())
    found = read_sound(path)
    assert found.samples.shape == (2, 16_000) and (found.rate, found.missing) == (RATE, "")
    np.testing.assert_array_equal(found.samples[:, :8000], np.stack([sound, sound]))
    np.testing.assert_allclose(found.samples[0, 8100:15_900:2], sound[100:7900:2], atol=0.3)


TEXTS = [b"ID3\3" + bytes(5000), b"<x>" * 2000, bytes(600), b"TAG" + bytes(125), b"LIST\xff\0\0\0?"]


@pytest.mark.parametrize("more", [3, 300, 7000])
def test_sound_after_what_the_header_knows_of(tmp_path, more) -> None:
    """Written piece by piece, with the header of the first."""
    sound, wavs = pieces(8000, more)
    path = tmp_path / "x.wav"
    path.write_bytes(wavs[0] + wavs[1][44:])
    np.testing.assert_array_equal(read_sound(path).samples[0], sound)


@pytest.mark.parametrize("text", TEXTS)
def test_a_tag_is_no_sound(tmp_path, text) -> None:
    sound, wavs = pieces(8000)
    path = tmp_path / "x.wav"
    path.write_bytes(wavs[0] + text)
    np.testing.assert_array_equal(read_sound(path).samples[0], sound)


@pytest.mark.parametrize("size", [2 * 8000, 0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("before", [b"ID3\4\0\0\0\0\1\0" + b"x" * 128, bytes(1), bytes(2048)])
def test_a_wav_file_behind_something(tmp_path, before, size) -> None:
    sound, wavs = pieces(8000)
    path = tmp_path / "x.wav"
    path.write_bytes(before + wavs[0][:40] + struct.pack("<I", size) + wavs[0][44:])
    found = read_sound(path)
    assert found.missing == ""
    np.testing.assert_array_equal(found.samples[0], sound)


@pytest.mark.parametrize("at", [12, 36, None])
@pytest.mark.parametrize("name", [b"bext", b"LIST", b"iXML"])
def test_a_chunk_of_an_odd_length_that_is_not_filled_up(tmp_path, name, at) -> None:
    """None: behind the sound, another piece of which follows."""
    sound, wavs = pieces(6000, 2000)
    path, odd = tmp_path / "x.wav", name + struct.pack("<I", 5) + b"INFO?"
    if at is None:
        path.write_bytes(wavs[0] + odd + wavs[1][36:])
    else:
        path.write_bytes(wavs[0][:at] + odd + wavs[0][at:] + wavs[1][36:])
    found = read_sound(path)
    assert found.missing == ""
    np.testing.assert_array_equal(found.samples[0], sound)


def test_a_cut_file_behind_a_tag_is_told(tmp_path) -> None:
    sound, wavs = pieces(8000)
    path = tmp_path / "x.wav"
    path.write_bytes(b"ID3\4\0\0\0\0\0\3abc" + wavs[0][:-2000])
    found = read_sound(path)
    assert "promises 8000 samples" in found.missing
    np.testing.assert_array_equal(found.samples[0], sound[:-1000])


def test_a_recorder_of_rf64_that_crashed(tmp_path) -> None:
    sound, wavs = pieces(8000)
    unknown, sizes = b"\xff" * 4, b"ds64" + struct.pack("<I", 28) + bytes(28)
    path = tmp_path / "x.wav"
    path.write_bytes(b"RF64" + unknown + b"WAVE" + sizes + wavs[0][12:40] + unknown + wavs[0][44:])
    np.testing.assert_array_equal(read_sound(path).samples[0], sound)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_bits_that_are_not_said(tmp_path, width) -> None:
    path = tmp_path / "x.wav"
    subtype = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}[width]
    soundfile.write(path, noise(channels=2).T, RATE, subtype=subtype, format="WAV")
    whole, content = read_sound(path).samples, bytearray(path.read_bytes())
    content[34:36] = bytes(2)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_sound(path).samples, whole)
