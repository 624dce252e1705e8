"""Everyone in a video: side by side, coming and going, over cuts, and as a photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from davss.media.people import MOVES, Place, bridged, find_people, people_at, spans
from davss.media.video import Frames
from tests.media.making import write
from tests.media.people import beside, person

REAL = Path(__file__).parents[3] / "shared" / "corpora" / "voxceleb2" / "test" / "mp4"


@pytest.fixture(scope="module")
def two() -> tuple[np.ndarray, np.ndarray]:
    return person(75, 3), person(75, 4, pace=2.7)


def people(tmp_path: Path, frames: np.ndarray):
    return find_people(Frames(write(tmp_path / "x.mp4", frames)))


def test_two_side_by_side(tmp_path, two):
    left, right = people(tmp_path, beside(*two))
    assert len(left.frames) == len(right.frames) == 75
    assert left.sights[0].points[..., 0].max() < 224 < right.sights[0].points[..., 0].min()
    assert left.motion > MOVES and right.motion > MOVES


def test_one_leaves_half_way_and_the_other_stays_one(tmp_path, two):
    frames = beside(*two)
    frames[38:, :, 224:] = 90
    stays, leaves = people(tmp_path, frames)
    assert len(stays.frames) >= 73 and 36 <= len(leaves.frames) <= 38
    assert spans(leaves)[-1][1] <= 38 / 25 + 1e-9


def test_over_a_cut_a_face_is_another_and_known_again(tmp_path, two):
    first, second = two
    frames = np.concatenate([first[:30], second[30:60], first[60:], second[:30]])
    one, other = people(tmp_path, frames)
    assert [len(sight.frames) for sight in one.sights] == [30, 15]
    assert [sight.first for sight in other.sights] == [30, 75]


def test_a_photograph_does_not_move_its_mouth(tmp_path, two):
    photo = np.repeat(person(1, 6), 75, 0)
    shaken = np.stack([np.roll(one, round(3 * np.sin(at / 5)), 0) for at, one in enumerate(photo)])
    for still in (photo, shaken, person(75, 4, speaks=False)):
        talks, silent = people(tmp_path, beside(two[0], still))
        assert talks.motion > MOVES > silent.motion


def test_small_faces_in_a_large_picture(tmp_path, two):
    frames = np.full((30, 1080, 1920, 3), 120, np.uint8)
    frames[:, 500:724, 300:524], frames[:, 420:644, 1500:1724] = two[0][:30], two[1][:30]
    assert len(people(tmp_path, frames)) == 2


def test_faces_where_they_are_said_to_be(tmp_path, two):
    frames = Frames(write(tmp_path / "x.mp4", beside(*two)))
    found = find_people(frames)[1]
    box = (0.0, *found.sights[0].box(0))
    given, nobody = people_at(
        frames, [Place([(0, 40)], np.array([box])), Place([(0, 75)], np.array([(0, 0, 0, 20, 20)]))]
    )
    assert given is not None and list(given.frames) == list(range(40)) and nobody is None
    assert np.abs(given.sights[0].crops.astype(float) - found.sights[0].crops[:40]).mean() < 3


def test_short_gaps_are_bridged():
    found = np.array([1, 0, 1] + [0] * 13 + [1, 1], bool)
    assert list(np.flatnonzero(~bridged(found))) == list(range(3, 16))


def test_real_people_are_told_apart(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"no real faces: {REAL} does not exist")
    clips = [sorted(one.glob("*/*.mp4"))[0] for one in sorted(REAL.iterdir())]
    shots = [np.stack(list(Frames(clip)))[:28] for clip in clips]
    again = np.concatenate([*shots, *(shot[::-1] for shot in shots)])
    found = people(tmp_path, again)
    assert [len(one.sights) for one in found] == [2] * len(clips)
    assert [one.sights[1].first - one.sights[0].first for one in found] == [28 * 7] * len(clips)
