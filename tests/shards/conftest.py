"""Shards made by hand, without media files: the smallest corpora readers and loader accept."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from davss.config import AugmentConfig, DiffusionConfig, ForeignConfig, PriorConfig, TrainingConfig
from davss.corpora import RawClip
from davss.shards import writer
from davss.shards.contract import encode
from davss.shards.manifests import write_manifests
from davss.shards.sample import Recording
from davss.storage import LocalStore

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
    with monkeypatch.context() as patch:
        patch.setattr(writer, "contents", lambda clip: f"sha256 of {clip.source}")
        patch.setattr(writer, "read_recording", lambda clip, *_: Recording(clip, None, None))
        patch.setattr(
            writer,
            "finish_sample",
            lambda recording, *_: sample(
                int(recording.clip.source), recording.clip.split, with_lips
            ),
        )
        results = []
        for split in ("train", "valid", "test"):
            clips = [
                RawClip("", split, "", str(index), Path(str(index))) for index in range(per_split)
            ]
            for start in range(0, per_split, 4):
                name = f"{split}-{start // 4:06d}"
                results.append(write_shard(clips[start : start + 4], name, root / "st"))
    manifests = root / "manifests"
    manifests.mkdir()
    write_manifests(results, manifests)
    return Corpus(manifests, root / "st")


def write_shard(clips, name: str, storage: Path, config=None, encoder=None) -> writer.ShardResult:
    """One shard of the corpus x, by the real writer, of two pieces."""
    store, notes = LocalStore(storage), "shards/x/build"
    pieces = {f"{notes}/{name}/0000": clips[:3], f"{notes}/{name}/0001": clips[3:]}
    for piece, some in pieces.items():
        writer.write_piece(some, piece, store, config, encoder)
    return writer.assemble(list(pieces), name, "shards/x", notes, store)


def training_of(
    augment=AugmentConfig(),  # noqa: B008 (frozen)
    foreign=ForeignConfig(),  # noqa: B008 (frozen)
    gain_db=(0.0, 0.0),
    **settings,
) -> PriorConfig:
    """Settings of training on crops of a second, as they are but for what is given."""
    settings = {"crop_seconds": 1.0, "loader_workers": 0, "shuffle_buffer": 8} | settings
    training = TrainingConfig(augment=augment, foreign=foreign, **settings)
    return PriorConfig(diffusion=DiffusionConfig(gain_db=gain_db), training=training)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch) -> Corpus:
    return make_corpus(tmp_path, monkeypatch)
