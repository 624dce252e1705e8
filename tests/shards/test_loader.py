"""Training batches: aligned, levelled, full, reproducible; refused where they would be wrong."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from davss.errors import DavssError
from davss.shards.loader import training_loader, training_shards
from davss.shards.reader import ShardReader
from tests.shards.conftest import RATE, make_corpus

CROP = RATE  # one second


def shards_of(corpus) -> list[str]:
    return training_shards(
        corpus.manifests, corpus.storage, "train", crop_samples=CROP, sample_rate=RATE
    )


def batches(corpus, count=4, **changes):
    settings = {"crop_samples": CROP, "sample_rate": RATE, "batch_size": 5, "seed": 1}
    settings |= {"shuffle_buffer": 8} | changes
    return list(islice(training_loader(shards_of(corpus), **settings), count))


def test_batches_are_full_and_hold_every_clip(corpus):
    found = batches(corpus, 12)
    assert {batch.audio.shape for batch in found} == {(5, CROP)}
    assert {batch.lips.shape for batch in found} == {(5, 25, 6)}
    assert all(batch.has_lips.all() for batch in found)
    assert len({key for batch in found for key in batch.keys}) == 12


def test_lips_stay_aligned_with_audio(corpus):
    reader = ShardReader(corpus.manifests, corpus.storage, "train")
    batch = batches(corpus, 1)[0]
    starts = set()
    for audio, lips, key in zip(batch.audio, batch.lips, batch.keys, strict=True):
        first = int(lips[0, 0])
        starts.add(first)
        assert torch.equal(lips[:, 0], torch.arange(first, first + 25).float())
        clip = reader[key].audio
        expected = clip[first * 320 : first * 320 + CROP] * 0.05 / np.sqrt(np.mean(clip**2))
        np.testing.assert_allclose(audio, expected, rtol=1e-4, atol=1e-6)
    assert len(starts) > 1


def test_gain_is_drawn_in_decibel(corpus):
    levels = torch.cat([batch.audio.std(-1) for batch in batches(corpus, 20, gain_db=(-10.0, 5.0))])
    decibel = 20 * torch.log10(levels / 0.05)
    assert decibel.min() > -11
    assert decibel.max() < 6
    assert decibel.max() - decibel.min() > 10


def same(left, right) -> bool:
    return all(torch.equal(a.audio, b.audio) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_numbers_same_batches(corpus, num_workers):
    first = batches(corpus, num_workers=num_workers, samples_seen=40)
    assert same(first, batches(corpus, num_workers=num_workers, samples_seen=40))
    assert not same(first, batches(corpus, num_workers=num_workers, samples_seen=60))
    assert not same(first, batches(corpus, num_workers=num_workers, samples_seen=40, seed=2))


def test_ranks_and_workers_differ(corpus):
    ranks = [batches(corpus, rank=rank, world_size=2) for rank in range(2)]
    assert not same(*ranks)
    first, second = batches(corpus, 2, num_workers=2)
    assert not same([first], [second])


def test_audio_without_lips(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path, monkeypatch, with_lips=False)
    batch = batches(corpus, 1)[0]
    assert batch.lips is None
    assert not batch.has_lips.any()


def test_fewer_shards_than_workers(corpus):
    with pytest.raises(DavssError, match=r"3 shards for 4 loader workers.*shard_megabytes"):
        batches(corpus, num_workers=2, world_size=2)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_clip_shorter_than_crop(corpus, num_workers):
    with pytest.raises(DavssError, match=r"train.clips.parquet: .* lasts 2.40 s, the crop 3.00 s"):
        training_shards(
            corpus.manifests, corpus.storage, "train", crop_samples=3 * RATE, sample_rate=RATE
        )
    with pytest.raises(DavssError, match=r"^train-0\d\d: .* shorter than the crop [^\n]*$"):
        batches(corpus, crop_samples=3 * RATE, num_workers=num_workers)


def test_other_rate(corpus):
    with pytest.raises(DavssError, match="clips at 8000 Hz, training wants 16000 Hz"):
        training_shards(
            corpus.manifests, corpus.storage, "train", crop_samples=CROP, sample_rate=16_000
        )
    with pytest.raises(DavssError, match="8000 Hz, training wants 16000 Hz"):
        batches(corpus, sample_rate=16_000)


def test_cut_and_missing_shards(corpus):
    paths = shards_of(corpus)
    loader = training_loader(
        paths, crop_samples=CROP, sample_rate=RATE, batch_size=8, seed=0, shuffle_buffer=1
    )
    for path in paths:
        with open(path, "rb+") as stream:
            stream.truncate(5000)
    with pytest.raises(DavssError, match="not the size of its manifest"):
        shards_of(corpus)
    with pytest.raises(DavssError, match=r"\.tar: not a readable shard"):
        next(loader)
    for path in corpus.storage.rglob("*.tar"):
        path.unlink()
    with pytest.raises(DavssError, match="shard is missing"):
        shards_of(corpus)
