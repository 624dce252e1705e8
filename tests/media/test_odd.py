"""Kinds of files that made others' readers fail, silently or with a trace."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from scipy.io import wavfile

from davss.cli.inputs import read_recording
from davss.errors import DavssError
from davss.media.audio import read_sound
from davss.media.video import Frames
from tests.media.making import RATE, grays, noise, numbers, pictures, write


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("NIST", "PCM_16"), ("NIST", "ULAW"), ("AU", "PCM_16"), ("VOC", "PCM_16"),
        ("RF64", "PCM_16"), ("WAVEX", "PCM_24"), ("WAV", "ULAW"), ("WAV", "ALAW"),
        ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAV", "GSM610"), ("WAV", "PCM_32"),
        ("WAV", "DOUBLE"), ("WAV", "PCM_U8"), ("WAV", "G721_32"), ("AIFF", "FLOAT"),
    ],
)  # fmt: skip
def test_kinds_of_speech_corpora_and_telephones(tmp_path, kind, subtype) -> None:
    soundfile.write(tmp_path / "x.wav", noise()[0], RATE, subtype, format=kind)
    sound = read_sound(tmp_path / "x.wav")
    assert (sound.rate, sound.missing) == (RATE, "")
    assert RATE <= sound.samples.shape[1] < RATE + 1100  # of ADPCM whole blocks
    assert 0.08 < np.sqrt(np.mean(sound.samples**2)) < 0.12


@pytest.mark.parametrize("channels", [1, 9])
def test_integers_of_64_bits(tmp_path, channels) -> None:
    """As SciPy writes an array of whole numbers that nobody gave a type."""
    wavfile.write(tmp_path / "x.wav", RATE, (noise(1.0, RATE, channels).T * 2.0**62).astype(int))
    np.testing.assert_allclose(
        read_sound(tmp_path / "x.wav").samples, noise(1.0, RATE, channels) / 2, atol=1e-6
    )


def test_one_bit_of_a_field_recorder(tmp_path) -> None:
    rate, blocks = 2_822_400, 4
    tone = 0.5 + 0.2 * np.sin(2 * np.pi * 440 * np.arange(blocks * 32_768) / rate)
    bits = np.diff(np.floor(np.cumsum(tone)), prepend=0).astype(np.uint8)
    form = struct.pack("<QIIIIIIQII", 52, 1, 0, 1, 1, rate, 1, len(bits), 4096, 0)
    sound = np.packbits(bits, bitorder="little").tobytes()
    chunks = b"fmt " + form + b"data" + struct.pack("<Q", 12 + len(sound)) + sound
    head = b"DSD " + struct.pack("<QQQ", 28, 28 + len(chunks), 0)
    (tmp_path / "x.dsf").write_bytes(head + chunks)
    found = read_sound(tmp_path / "x.dsf")
    assert (found.rate, found.samples.shape[1]) == (rate // 8, len(bits) // 8)
    assert found.missing == "" and 0.26 < found.samples.std() < 0.30


def test_big_endian_wav(tmp_path) -> None:
    soundfile.write(tmp_path / "x.wav", noise()[0], RATE, "PCM_16", endian="BIG")
    np.testing.assert_allclose(read_sound(tmp_path / "x.wav").samples, noise(), atol=1e-4)


def test_flac_that_does_not_know_its_length_and_flac_behind_a_tag(tmp_path) -> None:
    path = write(tmp_path / "x.flac", None, noise(), codecs=("", "flac"))
    whole = path.read_bytes()
    unknown = bytearray(whole)
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    for content in (bytes(unknown), b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + whole):
        path.write_bytes(content)
        assert read_sound(path).samples.shape == (1, RATE) and not read_sound(path).missing


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_one_after_the_other_are_all_heard(tmp_path, subtype) -> None:
    path = tmp_path / "x.ogg"
    soundfile.write(path, noise()[0], RATE, subtype, format="OGG")
    one = read_sound(path)
    path.write_bytes(2 * path.read_bytes())
    both = read_sound(path)
    assert (both.rate, both.start, both.missing) == (one.rate, 0, "")
    np.testing.assert_array_equal(both.samples, np.tile(one.samples, 2))


def test_opus_that_does_not_say_at_which_rate_it_was_recorded(tmp_path) -> None:
    """Its header may say 0; decoded it always has 48 kHz."""
    path = write(tmp_path / "x.ogg", None, noise(1.0, 48_000), rate=48_000, codecs=("", "libopus"))
    content = bytearray(path.read_bytes())
    place = content.index(b"OpusHead") + 12
    content[place : place + 4] = bytes(4)
    end = content.index(b"OggS", 4)
    content[22:26] = bytes(4)
    content[22:26] = ogg_checksum(content[:end]).to_bytes(4, "little")
    path.write_bytes(content)
    sound = read_sound(path)
    assert (sound.rate, sound.samples.shape[1]) == (48_000, 48_000)


def ogg_checksum(page: bytes) -> int:
    found = 0
    for byte in page:
        found ^= byte << 24
        for _ in range(8):
            found = (found << 1) ^ (0x104C11DB7 if found >> 31 else 0)
    return found


def test_a_rate_that_no_speech_has(tmp_path) -> None:
    soundfile.write(tmp_path / "x.wav", noise()[0], 1)
    with pytest.raises(DavssError, match="x.wav: its header says 1 samples a second, too few"):
        read_sound(tmp_path / "x.wav")


def test_mp3_of_any_header(tmp_path) -> None:
    path, codecs = tmp_path / "x.mp3", ("", "libmp3lame")
    write(path, None, noise(3.0, 44_100), rate=44_100, codecs=codecs, write_xing="0")
    assert not read_sound(path).missing  # its length is a guess from its bit rate
    whole = write(path, None, noise(3.0, 44_100), rate=44_100, codecs=codecs).read_bytes()
    path.write_bytes(whole + b"TAG" + bytes(125))
    assert read_sound(path).samples.shape[1] == 3 * 44_100 and not read_sound(path).missing
    for between in (b"", b"TAG" + bytes(125)):  # as `cat` joins them, each with its tags
        path.write_bytes(whole + between + whole)
        sound = read_sound(path)
        assert 6.0 <= sound.samples.shape[1] / 44_100 < 6.1 and not sound.missing
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut short" in read_sound(path).missing


@pytest.mark.parametrize(
    ("turn", "matrix", "side"),
    [
        ("right", (0, 1, -1, 0), (0, 2)), ("left", (0, -1, 1, 0), (1, 3)),
        ("over", (-1, 0, 0, -1), (2, 1)), ("mirrored", (-1, 0, 0, 1), (2, 0)),
        ("upside down", (1, 0, 0, -1), (3, 1)), ("front camera, right", (0, 1, 1, 0), (0, 3)),
        ("front camera, left", (0, -1, -1, 0), (1, 2)),
    ],
)  # fmt: skip
def test_a_telephone_held_upright(tmp_path, turn, matrix, side) -> None:
    """White at the left of the sensor, and gray at its top, are where the display matrix puts
    them.
    """
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    frames[:, :12], frames[:, :, :20] = 128, 255
    content = bytearray(write(tmp_path / "x.mp4", frames).read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "x.mp4").write_bytes(content)
    picture = next(iter(Frames(tmp_path / "x.mp4"))).astype(float)
    assert picture.shape == ((64, 96, 3) if matrix[0] else (96, 64, 3))
    edges = [picture[:9].mean(), picture[-9:].mean(), picture[:, -9:].mean(), picture[:, :9].mean()]
    assert tuple(np.argsort(edges)[::-1][:2]) == side


@pytest.mark.parametrize(
    ("ratio", "width"), [((64, 45), 91), ((8, 9), 57), ((1, 1), 64), ((65_535, 1), 64)]
)
def test_pixels_that_are_no_squares(tmp_path, ratio, width) -> None:
    """As those of DV, DVDs and broadcasts: a face must not be seen squeezed."""
    with av.open(str(tmp_path / "x.mp4"), "w") as target:
        stream = target.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*ratio)
        for picture in grays(5):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        target.mux(stream.encode(None))
    assert pictures(tmp_path / "x.mp4").shape == (5, 64, width, 3)


def test_a_recorder_of_browsers_that_writes_no_length(tmp_path) -> None:
    codecs = ("libvpx", "libopus")
    path = write(
        tmp_path / "x.wav", grays(25), noise(1.0, 48_000), rate=48_000, codecs=codecs,
        container="webm", live="1",
    )  # fmt: skip
    assert read_sound(path).samples.shape[1] == 48_000 and not read_sound(path).missing
    assert numbers(list(Frames(path))) == list(range(25))


def test_packets_lost_on_the_way_are_silence_and_told(tmp_path) -> None:
    """As in a stream of which some seconds did not arrive: the rest keeps its place."""
    write(tmp_path / "whole.ts", grays(75), noise(3.0))
    with (
        av.open(str(tmp_path / "whole.ts")) as source,
        av.open(str(tmp_path / "x.ts"), "w") as target,
    ):
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            lost = packet.pts is not None and 1.0 < float(packet.pts * packet.time_base) < 2.0
            if packet.size and not (lost and packet.stream.type == "audio"):
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    whole, found = (read_sound(tmp_path / name) for name in ("whole.ts", "x.ts"))
    assert abs(whole.samples.shape[1] - found.samples.shape[1]) < 1024
    middle = found.samples[0, int(1.3 * RATE) : int(1.8 * RATE)]
    assert np.abs(middle).max() == 0
    end = slice(int(2.4 * RATE), int(2.9 * RATE))
    np.testing.assert_allclose(found.samples[0, end], whole.samples[0, end], atol=1e-3)


def test_damage_in_the_midst_is_told(tmp_path) -> None:
    path = write(tmp_path / "x.mp4", None, noise(3.0), movflags="faststart")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(range(256)) * 11 + bytes(184)
    path.write_bytes(content)
    sound = read_sound(path)
    assert "x.mp4: damaged: " in sound.missing and sound.samples.shape[1] == 3 * RATE


@pytest.mark.parametrize("kind", ["m4a", "mkv"])
def test_tags_in_the_encoding_of_another_country(tmp_path, kind) -> None:
    path = write(tmp_path / f"x.{kind}", None, noise(), title="AAAAAA")
    path.write_bytes(path.read_bytes().replace(b"AAAAAA", b"\xc9t\xe9 \xe0!"))
    assert read_sound(path).samples.shape[1] >= RATE


def test_an_index_that_points_outside_of_the_file_is_no_trace(tmp_path, capfd) -> None:
    path = write(tmp_path / "x.caf", None, noise(), codecs=("", "pcm_s16be"))
    content = bytearray(path.read_bytes())
    struct.pack_into(">q", content, 12, 1 << 62)  # of the first chunk
    path.write_bytes(content)
    with pytest.raises(DavssError, match="x.caf: not a recording that can be read"):
        read_sound(path)
    assert capfd.readouterr().err == ""


def test_names_that_mean_something_to_others(tmp_path) -> None:
    for name in ("50%d.mp4", "http:x.mp4", "concat:a|b.mp4", "é ü.mp4", "-x.mp4"):
        write(tmp_path / "plain", grays(5), noise(0.2), container="mp4").rename(tmp_path / name)
        assert read_sound(tmp_path / name).samples.shape[1] == RATE // 5
        assert len(Frames(tmp_path / name)) == 5


@pytest.mark.parametrize("field", [(22, "<H"), (24, "<I")])
def test_a_header_without_channels_or_rate(tmp_path: Path, field) -> None:
    path, (place, kind) = tmp_path / "x.wav", field
    soundfile.write(path, noise()[0], RATE, "PCM_16")
    content = bytearray(path.read_bytes())
    struct.pack_into(kind, content, place, 0)
    path.write_bytes(content)
    with pytest.raises(DavssError, match="x.wav: (its header is broken|not a recording)"):
        read_sound(path)


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_avi_with_frames_that_refer_to_later_ones(tmp_path, codec) -> None:
    """AVI has no presentation times."""
    with av.open(str(tmp_path / "x.avi"), "w") as target:
        stream = target.add_stream(codec, rate=25, options={"bf": "2"})
        stream.width = stream.height = 64
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for picture in grays(40):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        target.mux(stream.encode(None))
    frames = Frames(tmp_path / "x.avi")
    assert numbers(list(frames)) == list(range(40)) and abs(frames.fps - 25) < 0.01


def two_tracks(path: Path, second: np.ndarray) -> bytes:
    with av.open(str(path), "w") as target:
        streams = [target.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
        for stream, sound in zip(streams, (np.zeros_like(second), second), strict=True):
            frame = av.AudioFrame.from_ndarray(sound, "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
    return path.read_bytes()


def test_a_track_in_a_codec_nobody_knows_is_passed_over(tmp_path) -> None:
    """Newer telephones put their spatial sound beside plain AAC."""
    content = bytearray(two_tracks(tmp_path / "x.mp4", noise()))
    for known, unknown in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        place = content.index(known, content.index(b"moov"))
        content[place : place + 4] = unknown
    (tmp_path / "x.mp4").write_bytes(content)
    assert 0.08 < np.sqrt(np.mean(read_sound(tmp_path / "x.mp4").samples ** 2)) < 0.12


def test_a_format_that_nobody_knows_is_not_taken_for_silence(tmp_path) -> None:
    """Of telephones and of packages newer than FFmpeg: the file is whole, and has its sound."""
    content = write(tmp_path / "x.mp4", grays(25), noise()).read_bytes()
    for known, unknown in ((b"mp4a", b"apac"), (b"esds", b"dapa"), (b"avc1", b"zvc9")):
        content = content.replace(known, unknown)
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(DavssError, match="x.mp4: its sound is in a format that is not known here"):
        read_sound(tmp_path / "x.mp4")
    with pytest.raises(DavssError, match="its moving picture is in a format that is not known"):
        Frames(tmp_path / "x.mp4")


def test_a_copy_protected_recording_is_not_taken_for_a_damaged_one(tmp_path) -> None:
    key = {"encryption_key": 32 * "7", "encryption_kid": 32 * "a"}
    path = write(
        tmp_path / "x.mp4", grays(25), noise(), encryption_scheme="cenc-aes-ctr", **key
    )  # fmt: skip
    with pytest.raises(DavssError, match=r"x.mp4: its sound is encrypted \(copy protection\)"):
        read_sound(path)
    with pytest.raises(DavssError, match="its picture is encrypted"):
        Frames(path)


def test_pictures_that_change_their_size_keep_that_of_the_first(tmp_path) -> None:
    """As calls do when the line gets worse."""
    parts = []
    for size, first in ((1, 0), (2, 20)):
        pictures = grays(40)[first : first + 20].repeat(size, 1).repeat(size, 2)
        path = tmp_path / f"{size}.ts"
        parts.append(write(path, pictures, times=(np.arange(20) + first) / 25).read_bytes())
    (tmp_path / "x.ts").write_bytes(b"".join(parts))
    frames = list(Frames(tmp_path / "x.ts"))
    assert {frame.shape for frame in frames} == {(64, 64, 3)}
    assert len(frames) >= 37 and abs(numbers(frames)[-1] - 39) <= 1


@pytest.mark.parametrize("seconds", [0.6, 1.0, 2.0])
def test_files_put_together_go_on_where_the_first_ended(tmp_path, seconds) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, grays(round(25 * seconds)), noise(seconds), container="mpegts")
    (tmp_path / "x.ts").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    sound = read_sound(tmp_path / "x.ts")
    assert abs(sound.samples.shape[1] - 2 * seconds * RATE) < 5000
    frames = Frames(tmp_path / "x.ts", sound.start)
    assert abs(len(frames) - 50 * seconds) <= 6 and frames.seen.all()


@pytest.mark.parametrize("silent", [0, 1])
def test_of_several_tracks_one_that_is_heard_is_taken(tmp_path, silent) -> None:
    """As OBS records microphone and desktop."""
    path, sound = tmp_path / "x.mkv", [noise(), noise()]
    sound[silent] = 0 * sound[silent]
    with av.open(str(path), "w") as target:
        for language in ("eng", "deu"):
            stream = target.add_stream("pcm_s16le", rate=RATE, layout="mono")
            stream.metadata["language"] = language
        for stream, samples in zip(target.streams, sound, strict=True):
            values = (samples * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(values, "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            target.mux([*stream.encode(frame), *stream.encode(None)])
    found = read_sound(path)
    assert found.tracks == 2 and found.samples.std() > 0.09
    (warning,) = read_recording(path).warnings
    number = "0 (eng)" if silent else "1 (deu)"
    assert f"2 tracks of sound, number {number} is separated; another: `ffmpeg -i IN " in warning
