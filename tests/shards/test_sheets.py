"""Contact sheets of faces: the same few clips whatever else comes, only where there is video."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError
from davss.shards import sheets
from davss.shards.sample import Mouths
from davss.shards.sheets import CLIPS, COLUMNS, LABEL, Watched, write_sheets


def make_clips(count: int, split: str = "train") -> list[RawClip]:
    names = [f"{split}/{number:03d}.mp4" for number in range(count)]
    paths = [Path("/corpus") / name for name in names]
    return [
        RawClip(key=f"{split}-{n}", split=split, speaker="id1", source=name, audio=path, video=path)
        for n, (name, path) in enumerate(zip(names, paths, strict=True))
    ]


@pytest.fixture
def mouths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read = []

    def read_mouth(clip: RawClip, config: ShardsConfig) -> Mouths:
        read.append(clip.key)
        if clip.key.endswith("0"):
            raise DavssError(f"{clip.source}: no face")
        shade = np.arange(20, dtype=np.uint8)[:, None, None] * 10
        return Mouths(np.broadcast_to(shade, (20, 96, 96)), {"share": 0.9, "jitter": 0.25})

    monkeypatch.setattr(sheets, "read_mouth", read_mouth)
    return read


def test_a_sheet_shows_crops_over_time_of_a_few_clips(tmp_path, mouths):
    watched = Watched([*make_clips(50), *make_clips(3, "test")])
    assert len(list(watched)) == 53
    paths = write_sheets(watched, ShardsConfig(), tmp_path)
    assert [path.name for path in paths] == ["train.faces.jpg", "test.faces.jpg"]
    image = cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE)
    assert image.shape == (CLIPS * (LABEL + 96), COLUMNS * 96)
    row = image[LABEL + 48, 48::96].astype(int)  # time goes to the right
    assert (np.diff(row) > 10).all() and abs(row[-1] - 190) < 5
    assert cv2.imread(str(paths[1])).shape[0] == 2 * (LABEL + 96)  # test-0 has no face


def test_the_clips_do_not_depend_on_the_order_they_come_in(mouths, tmp_path):
    for clips in (make_clips(50), make_clips(50)[::-1]):
        watched = Watched(clips)
        list(watched)
        write_sheets(watched, ShardsConfig(), tmp_path)
    half = len(mouths) // 2
    assert mouths[:half] == mouths[half:] and len(set(mouths)) == half


def test_sound_alone_has_no_sheet(tmp_path, mouths):
    watched = Watched(dataclasses.replace(clip, video=None) for clip in make_clips(4))
    list(watched)
    assert write_sheets(watched, ShardsConfig(), tmp_path) == [] and not mouths
