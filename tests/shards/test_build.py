"""The shards stage in Ray tasks on real files: same bytes twice, rejects told, work not redone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import ray
import soundfile

from davss.config import ShardsConfig
from davss.corpora import RawClip, wham
from davss.errors import DavssError
from davss.shards.build import build_shards
from davss.shards.encoders import _found
from davss.shards.reader import ShardReader
from davss.shards.validate import validate
from davss.storage import sha256

CONFIG = ShardsConfig(sample_rate=8000, min_seconds=1.0, shard_megabytes=0.1)


@pytest.fixture(scope="module", autouse=True)
def _ray():
    """One Ray for all builds of this file: it takes longer to start than they take."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def write_noise(path: Path, seed: int, seconds: float = 2.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = 0.1 * np.random.default_rng(seed).standard_normal((int(16_000 * seconds), 2))
    soundfile.write(path, audio, 16_000)


@pytest.fixture
def root(tmp_path) -> Path:
    """WHAM! with 20 good training files, and one of each kind of bad ones."""
    folder = tmp_path / "wham"
    for split, count in (("tr", 20), ("cv", 3), ("tt", 3)):
        for index in range(count):
            write_noise(folder / "wham_noise" / split / f"{split}{index}.wav", index)
    bad = folder / "wham_noise/tr"
    write_noise(bad / "short.wav", 1, seconds=0.5)
    soundfile.write(bad / "silent.wav", np.zeros((32_000, 2)), 16_000)
    nan = np.full((32_000, 2), np.nan, np.float32)
    soundfile.write(bad / "nan.wav", nan, 16_000, subtype="FLOAT")
    (bad / "corrupt.wav").write_bytes(b"RIFF nothing of the kind")
    return folder


def build(root: Path, out: Path, storage: Path, config: ShardsConfig = CONFIG):
    return build_shards("wham", wham.scan(root), config, out, storage)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def test_shards_rejects_and_manifests(root, tmp_path):
    summary = build(root, tmp_path / "out", tmp_path / "st")
    assert validate(tmp_path / "out", tmp_path / "st") == []
    train = ShardReader(tmp_path / "out", tmp_path / "st", "train")
    assert len(train) == 20
    assert train.clips.shard.nunique() > 2
    assert {len(clip.audio) for clip in train} == {16_000}
    rejects = pandas.read_parquet(tmp_path / "out/rejects.parquet").set_index("path").reason
    assert len(rejects) == 4 == summary.rejects and summary.clips == 26
    for name, reason in (
        ("short", "0.50 s, shorter than 1 s"),
        ("silent", "silent"),
        ("nan", "NaN"),
        ("corrupt", "not a recording that can be read"),
    ):
        assert reason in rejects[f"wham_noise/tr/{name}.wav"]


def test_same_input_same_bytes(root, tmp_path):
    build(root, tmp_path / "out1", tmp_path / "st1")
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    build(moved, tmp_path / "out2", tmp_path / "st2")
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")
    tars = [
        {name: digest for name, digest in contents(storage).items() if name.endswith(".tar")}
        for storage in (tmp_path / "st1", tmp_path / "st2")
    ]
    assert tars[0] == tars[1]


def test_finished_shards_are_reused_and_broken_ones_made_again(root, tmp_path):
    storage = tmp_path / "st"
    build(root, tmp_path / "out", storage)
    before = contents(tmp_path / "out")
    tars = sorted(storage.rglob("*.tar"))
    times = {path: path.stat().st_mtime_ns for path in tars}
    tars[0].write_bytes(b"damaged")
    tars[1].unlink()
    build(root, tmp_path / "out", storage)
    assert contents(tmp_path / "out") == before
    assert validate(tmp_path / "out", storage) == []
    assert {path: path.stat().st_mtime_ns for path in tars[2:]} == dict(list(times.items())[2:])
    assert not [path for path in tmp_path.rglob(".*")]


def test_all_clips_rejected_leaves_no_manifest(root, tmp_path):
    config = ShardsConfig(sample_rate=8000, min_seconds=60.0)
    with pytest.raises(DavssError, match=r"corpora.wham: all 30 clips were rejected; the first"):
        build(root, tmp_path / "out", tmp_path / "st", config)
    assert not (tmp_path / "out").exists()


def test_equal_keys_are_refused(tmp_path):
    write_noise(tmp_path / "a.wav", 0)
    clips = [RawClip("a", "train", "", name, tmp_path / "a.wav") for name in ("x.wav", "y.wav")]
    with pytest.raises(DavssError, match=r"y.wav: has the same key as x.wav"):
        build_shards("wham", clips, CONFIG, tmp_path / "out", tmp_path / "st")


def test_no_clip_to_fit_an_encoder_to():
    with pytest.raises(DavssError, match="no training clip shows a mouth; the last: x: no face"):
        list(_found(["y: no face", "x: no face"]))
