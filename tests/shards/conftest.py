"""Shards made by hand, without media files: the smallest corpora readers and loader accept."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from davss.shards import writer
from davss.shards.contract import encode

RATE, FRAMES, DIM = 8000, 60, 6


class Corpus(NamedTuple):
    """A manifest folder and the storage its shards lie in."""

    manifests: Path
    storage: Path


def sample(index: int, split: str = "train", with_lips: bool = True) -> dict:
    """A sample whose audio tells its position: lips[v, 0] is v, audio is loud noise."""
    rng = np.random.default_rng(index)
    audio = 0.1 * rng.standard_normal(FRAMES * RATE // 25).clip(-3, 3)
    lips = rng.standard_normal((FRAMES, DIM))
    lips[:, 0] = np.arange(FRAMES)
    meta = {"split": split, "speaker": f"id{index % 3}", "source": f"{index}.wav"}
    meta["sample_rate"] = RATE
    return encode(f"{split}-{index:03d}", audio, lips if with_lips else None, meta)


def make_corpus(root: Path, monkeypatch, per_split: int = 12, with_lips: bool = True) -> Corpus:
    """Four clips to a shard; contents of samples do not come from files but from `sample`."""
    from davss.corpora import RawClip

    def fake(clip, config, encoder):
        return sample(int(clip.source), clip.split, with_lips)

    monkeypatch.setattr(writer, "make_sample", fake)
    results = []
    for split in ("train", "valid", "test"):
        clips = [RawClip("", split, "", str(index), Path()) for index in range(per_split)]
        for start in range(0, per_split, 4):
            name = f"{split}-{start // 4:06d}"
            part = clips[start : start + 4]
            results.append(writer.write_shard(part, name, "shards/x", root / "st", None, None))
    manifests = root / "manifests"
    manifests.mkdir()
    writer.write_manifests(results, "0123", manifests)
    return Corpus(manifests, root / "st")


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch) -> Corpus:
    return make_corpus(tmp_path, monkeypatch)
