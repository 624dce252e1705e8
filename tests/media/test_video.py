"""Video in: frames as written, and bad files or frame rates as one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from davss.corpora.demo import write_mp4
from davss.media.audio import read_audio
from tests.media.making import pictures


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
