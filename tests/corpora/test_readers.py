"""The corpora's readers: official layouts found, everything else refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from davss.corpora import dns, hash_fraction, voxceleb2, wham
from davss.errors import DavssError


def write_wav(path: Path, rate: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((rate // 10, channels), 0.1), rate)


def make_voxceleb2(root: Path, dev: int = 40, test: int = 3) -> Path:
    for part, count in (("dev", dev), ("test", test)):
        for index in range(count):
            name = f"{part}/mp4/id1{part == 'test':d}00{index % 2}/Ab{index}/0000{index % 10}.mp4"
            (root / name).parent.mkdir(parents=True)
            (root / name).write_bytes(b"")
    return root


def make_wham(root: Path) -> Path:
    for part in ("tr", "cv", "tt"):
        write_wav(root / "wham_noise" / part / f"{part}_a_000.wav", channels=2)
        write_wav(root / "wham_noise" / part / f"{part}_a_000sp08.wav", channels=2)
    return root


def make_dns(root: Path, folder: str, count: int = 60, rate: int = 48_000) -> Path:
    for index in range(count):
        write_wav(root / folder / f"door-Freesound_valid_{index}.wav", rate)
    return root


def test_voxceleb2(tmp_path):
    clips = list(voxceleb2.scan(make_voxceleb2(tmp_path), validation_fraction=0.2))
    assert len({clip.key for clip in clips}) == len(clips) == 43
    counts = {split: sum(clip.split == split for clip in clips) for split in ("train", "valid")}
    assert counts["train"] + counts["valid"] == 40
    assert 2 <= counts["valid"] <= 15
    test = [clip for clip in clips if clip.split == "test"]
    assert {clip.speaker for clip in test} == {"id11000", "id11001"}
    assert test[0].video == test[0].audio == tmp_path / test[0].source
    assert [clip.source for clip in clips] == sorted(clip.source for clip in clips)


def test_voxceleb2_splits_do_not_depend_on_other_clips(tmp_path):
    make_voxceleb2(tmp_path)
    before = {clip.key: clip.split for clip in voxceleb2.scan(tmp_path, 0.2)}
    extra = tmp_path / "dev/mp4/id00001/x/00001.mp4"
    extra.parent.mkdir(parents=True)
    extra.write_bytes(b"")
    after = {clip.key: clip.split for clip in voxceleb2.scan(tmp_path, 0.2)}
    assert before.items() <= after.items()


@pytest.mark.parametrize("inner", [False, True])
def test_wham(tmp_path, inner):
    make_wham(tmp_path)
    clips = list(wham.scan(tmp_path / "wham_noise" if inner else tmp_path))
    assert [(clip.key, clip.split) for clip in clips] == [
        ("tr-tr_a_000", "train"),
        ("cv-cv_a_000", "valid"),
        ("tt-tt_a_000", "test"),
    ]
    assert all(clip.video is None for clip in clips)


def test_wham_at_another_rate_names_the_file(tmp_path):
    make_wham(tmp_path)
    write_wav(tmp_path / "wham_noise/cv/odd.wav", 44_100, 2)
    with pytest.raises(DavssError, match=r"cv/odd.wav: 44100 Hz, WHAM! noise is 16000 Hz"):
        list(wham.scan(tmp_path))


@pytest.mark.parametrize("folder", ["datasets_fullband/noise_fullband", "datasets/noise", "."])
def test_dns(tmp_path, folder):
    clips = list(dns.scan(make_dns(tmp_path, folder), (0.6, 0.2, 0.2)))
    counts = [sum(clip.split == split for clip in clips) for split in ("train", "valid", "test")]
    assert sum(counts) == len({clip.key for clip in clips}) == 60
    np.testing.assert_allclose(counts, [36, 12, 12], atol=10)
    assert min(counts) > 0


def test_dns_fractions_must_sum_to_one(tmp_path):
    with pytest.raises(DavssError, match="split_fractions.* do not sum to 1"):
        list(dns.scan(make_dns(tmp_path, "datasets/noise", 1), (0.9, 0.05, 0.1)))


SCANS = {
    "voxceleb2": lambda root: voxceleb2.scan(root, 0.1),
    "wham": wham.scan,
    "dns": lambda root: dns.scan(root, (0.9, 0.05, 0.05)),
}


@pytest.mark.parametrize("name", SCANS)
def test_missing_empty_and_foreign_roots(name, tmp_path):
    def message(root: Path) -> str:
        with pytest.raises(DavssError) as caught:
            list(SCANS[name](root))
        text = str(caught.value)
        assert "\n" not in text
        assert str(root) in text
        assert f"set corpora.{name}.root" in text
        assert "expected" in text
        return text

    assert "no such folder" in message(tmp_path / "absent")
    assert "empty" in message(tmp_path)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.jpg").write_bytes(b"")
    assert "not the official layout" in message(tmp_path)


def test_hash_fraction_is_uniform():
    values = [hash_fraction(f"clip {index}") for index in range(2000)]
    assert abs(np.mean(values) - 0.5) < 0.03
    assert 0 <= min(values) <= max(values) < 1
