"""Video in: frames as written, and bad files or frame rates as one clear line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from davss.corpora.demo import write_mp4
from davss.errors import DavssError
from davss.media.audio import read_audio
from davss.media.video import Frames
from tests.media.making import pictures


def grays(num: int) -> np.ndarray:
    """Frames each of one gray level that tells its number."""
    levels = (20 + 8 * np.arange(num)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num, 224, 224, 3)).copy()


def write_silent_video(path: Path, fps: Fraction, num: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(num):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_frames_come_back_in_order(tmp_path: Path) -> None:
    frames = grays(25)
    write_mp4(tmp_path / "x.mp4", frames, np.zeros(16_000, np.float32))
    video = pictures(tmp_path / "x.mp4")
    assert video.dtype == np.uint8 and video.shape == frames.shape
    difference = video.mean((1, 2, 3)) - frames.mean((1, 2, 3))
    assert np.abs(difference).max() < 3
    assert (Frames(tmp_path / "x.mp4").fps, Frames(tmp_path / "x.mp4").first) == (25.0, 0)


def test_sound_and_picture_start_together(tmp_path: Path) -> None:
    """A flash and a click written at frame 10 are read at frame 10, to the millisecond."""
    frames = np.zeros((25, 224, 224, 3), np.uint8)
    frames[10:] = 255
    audio = np.zeros(16_000, np.float32)
    audio[6400:] = 0.3 * np.sin(np.arange(9600))
    write_mp4(tmp_path / "x.mp4", frames, audio)
    flash = int(np.argmax(pictures(tmp_path / "x.mp4").mean((1, 2, 3)) > 128))
    click = int(np.argmax(np.abs(read_audio(tmp_path / "x.mp4")[0]) > 0.15))
    assert flash == 10 and abs(click - 6400) <= 16


def test_a_video_without_sound_says_so(tmp_path: Path) -> None:
    path = write_silent_video(tmp_path / "x.mp4", Fraction(25))
    assert pictures(path).shape == (10, 48, 64, 3)
    with pytest.raises(DavssError, match="x.mp4: has no sound; choose"):
        read_audio(path)


def test_broken_files_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_mp4(tmp_path / "x.mp4", grays(25), np.zeros(16_000, np.float32))
    whole = (tmp_path / "x.mp4").read_bytes()
    for name, content in (
        ("zero.mp4", b""),
        ("cut.mp4", whole[: len(whole) // 2]),
        ("text.mp4", b"hello" * 1000),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DavssError, match=name):
            pictures(tmp_path / name)
    with pytest.raises(DavssError, match="no such file"):
        Frames(tmp_path / "none.mp4")
    assert capfd.readouterr().err == ""


def test_decord_reads_the_same(tmp_path: Path) -> None:
    """Of a plain clip another decoder has the same pictures, bit by bit, and the same sound."""
    decord = pytest.importorskip("decord")
    frames = np.random.default_rng(0).integers(0, 255, (25, 28, 28, 3), np.uint8)
    sound = 0.1 * np.random.default_rng(1).standard_normal(16_000)
    write_mp4(tmp_path / "x.mp4", frames.repeat(8, 1).repeat(8, 2), sound)
    reader = decord.VideoReader(str(tmp_path / "x.mp4"), num_threads=1)
    theirs = reader.get_batch(range(len(reader))).asnumpy()
    np.testing.assert_array_equal(pictures(tmp_path / "x.mp4"), theirs)
    theirs = decord.AudioReader(str(tmp_path / "x.mp4"), mono=True, sample_rate=-1)[:].asnumpy()[0]
    ours, _ = read_audio(tmp_path / "x.mp4")
    np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-6)
