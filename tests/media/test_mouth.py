"""The mouth finder on drawn faces, on no face, and on real faces where there are any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from davss.corpora.demo_face import Motion, Portrait
from davss.corpora.demo_head import draw_identity
from davss.errors import DavssError
from davss.media.faces import LEFT_EYE, RIGHT_EYE
from davss.media.mouth import NOSE_TIP, STABLE, MouthFinder, crop_mouths, opening
from davss.media.video import Frames
from tests.media.making import pictures, write

REAL_FACES = Path(__file__).parents[3] / "shared" / "corpora" / "voxceleb2" / "test" / "mp4"


@pytest.fixture(scope="module")
def finder() -> MouthFinder:
    return MouthFinder()


def draw(num: int = 40, seed: int = 3) -> tuple[np.ndarray, Motion]:
    rng = np.random.default_rng(seed)
    time = np.arange(num)
    pose = np.stack(
        [0.1 * np.sin(time / 9), 8 * np.sin(time / 11), 5 * np.cos(time / 13), 1.1 + time / 400], 1
    )
    motion = Motion(0.5 - 0.5 * np.cos(time / 2), 0.5 + 0 * time, 0.0 * time, pose)
    return Portrait(draw_identity(rng, feminine=True), rng).render(motion, rng), motion


def test_a_drawn_face_is_found_and_its_mouth_measured(finder: MouthFinder) -> None:
    frames, motion = draw()
    mouth = finder(frames)
    assert mouth.found.mean() >= 0.98
    assert mouth.crops.shape == (40, 96, 96) and mouth.crops.dtype == np.uint8
    assert mouth.landmarks.shape == (40, 468, 2)
    assert np.corrcoef(opening(mouth.landmarks), motion.opening)[0, 1] > 0.9


def test_crops_stay_put_while_the_head_moves(finder: MouthFinder) -> None:
    frames, motion = draw()
    mouth = finder(frames)
    moved = np.ptp(mouth.landmarks[:, list(STABLE)].mean(1), axis=0)
    assert moved.max() > 10  # pixels: the head does move
    closed = mouth.crops[motion.opening < 0.1].astype(float)
    assert np.abs(closed - closed.mean(0)).mean() < 4  # gray levels of 255


def test_pictures_without_a_face_are_refused(finder: MouthFinder) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (5, 224, 224, 3), dtype=np.uint8)
    with pytest.raises(DavssError, match="x.mp4: no face found in 100 % of its frames"):
        finder(noise, "x.mp4")


def test_short_gaps_are_bridged_and_long_ones_refused(finder: MouthFinder) -> None:
    frames, _ = draw()
    whole = finder(frames).landmarks
    frames[20:23] = 128
    bridged = finder(frames)
    np.testing.assert_array_equal(np.flatnonzero(~bridged.found), [20, 21, 22])
    assert np.abs(bridged.landmarks[21] - whole[21]).mean() < 4
    frames[:12] = 128
    with pytest.raises(DavssError, match="no face found in 38 % of its frames"):
        finder(frames)


@pytest.mark.parametrize(("gap", "end"), [(slice(0, 7), "first"), (slice(33, 40), "last")])
def test_a_gap_at_an_end_has_nothing_to_be_bridged_from(gap: slice, end: str) -> None:
    frames, _ = draw()
    frames[gap] = 128
    with pytest.raises(DavssError, match=f"no face in the {end} 0.28 s, .*; cut them off"):
        MouthFinder(max_gap=12)(frames)
    frames[gap] = draw()[0][gap]
    frames[gap.start : gap.start + 1] = 128  # a frame or a few are their neighbour's
    assert MouthFinder(max_gap=12)(frames).found.sum() == 39


def test_a_face_whose_nose_is_beside_its_eyes_is_seen_from_the_side(
    finder: MouthFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, _ = draw(8)
    tracks = finder._follow(frames)
    points = tracks[0].landmarks
    eyes = points[:, LEFT_EYE] - points[:, RIGHT_EYE]
    points[:6, NOSE_TIP] += 0.7 * eyes[:6]
    monkeypatch.setattr(finder, "_follow", lambda _: tracks)
    with pytest.raises(DavssError, match="x.mp4: the face is seen from the side in 75 % of its"):
        finder(frames, "x.mp4")


def test_crops_do_not_depend_on_the_size_of_the_picture(finder: MouthFinder) -> None:
    frames, _ = draw(8)
    mouth = finder(frames)
    large = frames.repeat(3, axis=1).repeat(3, axis=2)
    crops = crop_mouths(large, 3 * mouth.landmarks + 1)
    assert np.abs(crops.astype(float) - mouth.crops).mean() < 2


def test_real_faces(finder: MouthFinder) -> None:
    if not REAL_FACES.is_dir():
        pytest.skip(f"no real faces: {REAL_FACES} does not exist")
    clips = [sorted(person.glob("*/*.mp4"))[0] for person in sorted(REAL_FACES.iterdir())]
    assert clips
    for clip in clips:
        mouth = finder(pictures(clip), str(clip))
        assert mouth.found.mean() >= 0.98, clip
        gap = opening(mouth.landmarks)
        assert np.percentile(gap, 5) < 0.06 and gap.max() > 0.06, clip  # closed and open again
        motion = np.abs(np.diff(mouth.crops.astype(float), axis=0)).mean((1, 2))
        assert motion.mean() < 6, clip  # the crop does not jump about


def test_a_gap_of_the_picture_is_one_of_the_face(tmp_path: Path) -> None:
    frames, _ = draw(36)
    kept = np.array([*range(14), *range(24, 36)])
    path = write(tmp_path / "x.mp4", frames[kept], times=kept / 25)
    mouth = MouthFinder(min_found=0.5)(Frames(path), "x.mp4")
    assert list(np.flatnonzero(~mouth.found)) == [16, 17, 18, 19, 20, 21]
    assert np.isfinite(mouth.landmarks).all()
    with pytest.raises(DavssError, match="x.mp4: no face for 0.24 s from 0.64 s on"):
        MouthFinder(min_found=0.5, max_gap=5)(Frames(path), "x.mp4")
