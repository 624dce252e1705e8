"""Damaged videos become lips as whole ones do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from davss.config import ShardsConfig
from davss.evaluation import pictures
from davss.evaluation.pictures import Videos
from davss.shards.contract import Clip
from davss.shards.sample import Recording

CONFIG = ShardsConfig(sample_rate=8000)


class Encoder:
    """The first pixel, and the contrast."""

    dim = 2

    def __call__(self, mouth):
        return np.stack([mouth[:, 0, 0], mouth.std(axis=(1, 2))], axis=1).astype(np.float32)


def test_a_clip_is_read_once_cut_as_its_shard_was_and_damaged_where_it_is_seen(monkeypatch):
    crops = np.random.default_rng(0).integers(0, 255, (63, 96, 96)).astype(np.uint8)
    asked = []

    def read(clip, config, with_mouth):
        asked.append((str(clip.audio), str(clip.video), config, with_mouth))
        return Recording(clip, np.zeros(1, np.float32), crops)

    monkeypatch.setattr(pictures, "read_recording", read)
    clip = Clip("k", np.zeros(1), 8000, None, {"source": "test/a.mp4", "num_frames": 60})
    videos, rng = Videos("corpus", CONFIG, Encoder()), np.random.default_rng(0)
    right = Encoder()(crops[:60])
    np.testing.assert_array_equal(videos(clip, "shift:0", 20, 30, rng), right)
    blurred = videos(clip, "blur:4", 20, 30, rng)
    assert (blurred[20:50, 1] < 0.3 * right[20:50, 1]).all()
    np.testing.assert_array_equal(blurred[:20], right[:20])
    np.testing.assert_array_equal(blurred[50:], right[50:])
    path = str(Path("corpus/test/a.mp4").absolute())  # Ray's workers may be elsewhere
    assert asked == [(path, path, CONFIG, True)]
