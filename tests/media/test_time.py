"""Sound and picture are placed by their time stamps: every frame is found where it was shown."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from davss.errors import DavssError
from davss.media.audio import read_audio, read_sound
from davss.media.video import Frames
from tests.media.making import RATE, grays, noise, numbers, write


def seen_with_sound(path: Path, num: int | None = None) -> tuple[Frames, list[int]]:
    """The picture on the clock of the sound, and the numbers of its frames."""
    sound = read_sound(path)
    frames = Frames(path, sound.start, num)
    return frames, numbers(list(frames))


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.mov", "x.ts"])
@pytest.mark.parametrize("late", [0.0, 0.4])
def test_what_was_seen_when_the_sound_set_in(tmp_path, name, late) -> None:
    check_onset(write(tmp_path / name, grays(40), noise(1.2), sound_start=late), late)


def test_a_clock_that_starts_again_within_the_recording(tmp_path) -> None:
    """That of mpegts has 33 bits, which a receiver that runs for days uses up: what was before has
    negative times.
    """
    path = write(tmp_path / "x.ts", grays(40), noise(1.2), output_ts_offset="95441.2")
    assert read_sound(path).start < -1
    check_onset(path, 0.0)


def test_parts_that_overlap_stay_in_time(tmp_path) -> None:
    """Sound and picture both go on where the first part ended."""
    first = write(tmp_path / "a.ts", grays(50), noise(2.0)).read_bytes()
    second = write(tmp_path / "b.ts", grays(50), noise(2.0), output_ts_offset="1.6")
    (tmp_path / "x.ts").write_bytes(first + second.read_bytes())
    sound = read_sound(tmp_path / "x.ts")
    assert 4 <= sound.samples.shape[1] / RATE < 4.3
    frames, shown = seen_with_sound(tmp_path / "x.ts")
    assert 98 <= len(shown) <= 104 and frames.seen.all()


def test_fragmented_mp4(tmp_path) -> None:
    flags = "frag_keyframe+empty_moov+default_base_moof+delay_moov"
    path = write(tmp_path / "x.mp4", grays(40), noise(1.2), sound_start=0.4, movflags=flags)
    check_onset(path, 0.4)


def check_onset(path: Path, late: float) -> None:
    """The frame shown when the sound sets in is the one that was written with it."""
    sound = read_sound(path)
    product = np.fft.rfft(sound.samples[0], 1 << 16) * np.fft.rfft(noise()[0], 1 << 16).conj()
    onset = int(np.argmax(np.fft.irfft(product))) / RATE  # where the sound written is found
    frames, shown = seen_with_sound(path)
    tick = round((onset + 0.2) * 25)
    assert abs(shown[tick - frames.first] - (late * 25 + tick - onset * 25)) < 0.8
    assert np.abs(np.diff(shown[2:]) - 1).max() == 0  # one after the other, from start to end
    assert frames.seen.all() and shown[-1] >= 38


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_picture_that_begins_late(tmp_path, name) -> None:
    times = 0.4 + np.arange(25) / 25
    frames, shown = seen_with_sound(write(tmp_path / name, grays(25), noise(2.0), times=times))
    assert frames.first == 10 and shown == list(range(25))


def test_what_a_cut_hides_is_neither_counted_nor_used(tmp_path) -> None:
    path = write(tmp_path / "x.mp4", grays(50), noise(2.0), cut=1.0)
    sound = read_sound(path)
    assert not sound.missing
    assert abs(sound.samples.shape[1] - RATE) <= 1
    frames, shown = seen_with_sound(path)
    assert shown == list(range(25, 50)) and not frames.missing
    np.testing.assert_allclose(_lag(noise(2.0)[0, RATE:], sound.samples[0]), 0, atol=1)


def _lag(expected: np.ndarray, found: np.ndarray) -> int:
    num = min(len(expected), len(found))
    product = np.fft.rfft(expected[:num]) * np.fft.rfft(found[:num]).conj()
    lag = int(np.argmax(np.fft.irfft(product)))
    return lag - num if lag > num // 2 else lag


@pytest.mark.parametrize(
    "rate", [24_000 / 1001, 24, 30_000 / 1001, 30, 48, 50, 60_000 / 1001, 60, 15]
)
def test_other_frame_rates_are_resampled_by_nearest_time(tmp_path, rate) -> None:
    num = 40
    path = write(tmp_path / "x.mp4", grays(num), times=np.arange(num) / rate)
    frames = Frames(path)
    assert abs(frames.fps - rate) < 0.02
    wanted = np.abs(np.arange(num)[None] / rate - np.arange(len(frames))[:, None] / 25).argmin(1)
    assert np.abs(np.array(numbers(list(frames))) - wanted).max() <= 1
    assert np.mean(np.array(numbers(list(frames))) == wanted) > 0.9
    assert abs(len(frames) - num / rate * 25) <= 1


def test_variable_rate_with_the_mean_of_25(tmp_path) -> None:
    times = np.concatenate([np.arange(20) / 50, 0.4 + np.arange(20) / (20 / 1.2)])
    frames = Frames(write(tmp_path / "x.mp4", grays(40), times=times))
    shown = np.array(numbers(list(frames)))
    assert np.abs(times[shown] - np.arange(len(frames)) / 25).max() <= 0.031


def test_dropped_frames_shift_nothing_and_a_gap_is_a_gap(tmp_path) -> None:
    kept = np.array([*range(10), *range(12, 20), *range(32, 50)])
    path = write(tmp_path / "x.mp4", grays(50)[kept], times=kept / 25)
    frames = Frames(path)
    found = np.array(numbers(list(frames)))
    assert len(frames) == 50 and abs(frames.fps - 25) < 0.01
    assert np.abs(found[kept] - kept).max() == 0
    assert list(np.flatnonzero(~frames.seen)) == list(range(22, 30))


def test_a_long_video_is_not_held_in_memory(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "x.mp4", grays(40), times=np.arange(40) / 30)
    held = np.stack(list(Frames(path)))
    monkeypatch.setattr("davss.media.video.HELD", 3 * held[0].nbytes)
    frames = Frames(path)
    assert frames._held is None
    for _ in range(2):
        np.testing.assert_array_equal(np.stack(list(frames)), held)


def test_picture_and_sound_that_never_meet(tmp_path) -> None:
    path = write(tmp_path / "x.mkv", grays(10), noise(), sound_start=2.0)
    with pytest.raises(DavssError, match="x.mkv: its picture and its sound never overlap"):
        seen_with_sound(path)


def test_sound_with_a_gap_keeps_its_place(tmp_path) -> None:
    path = tmp_path / "x.mkv"
    first, second = noise(1.0), noise(1.0)
    write(tmp_path / "a.mkv", None, first, codecs=("", "pcm_s16le"))
    write(tmp_path / "b.mkv", None, second, codecs=("", "pcm_s16le"), sound_start=1.5)
    with av.open(str(path), "w") as target:
        stream = None
        for name in ("a.mkv", "b.mkv"):
            with av.open(str(tmp_path / name)) as source:
                stream = stream or target.add_stream_from_template(source.streams.audio[0])
                for packet in source.demux():
                    if packet.size:
                        packet.stream = stream
                        target.mux(packet)
    samples = read_sound(path).samples[0]
    assert abs(len(samples) - 2.5 * RATE) < 100
    assert np.abs(samples[RATE + 100 : int(1.5 * RATE) - 100]).max() == 0
    assert np.abs(samples[int(1.5 * RATE) + 100 :]).max() > 0.1


@pytest.mark.parametrize("begins", [2_000_000_000, 48_000])
def test_an_edit_list_that_hides_everything_is_not_followed(tmp_path, begins) -> None:
    """Written by servers that count from when they were started."""
    path = write(tmp_path / "x.mp4", sound=noise(1.0))
    content = bytearray(path.read_bytes())
    struct.pack_into(">i", content, content.index(b"elst") + 16, begins)
    path.write_bytes(content)
    sound = read_sound(path)
    assert sound.samples.shape[1] >= RATE and "its edit list hides all of" in sound.missing
    with pytest.raises(DavssError, match="its edit list"):
        read_audio(path)
