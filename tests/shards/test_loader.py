"""Training batches: aligned, levelled, full, reproducible; refused where they would be wrong."""

from __future__ import annotations

import threading
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from davss.config import AugmentConfig
from davss.errors import DavssError
from davss.shards.contract import decode
from davss.shards.loader import micro_batches, shares, training_loader, training_shards
from davss.shards.reader import ShardReader, sample_of
from davss.storage import LocalStore
from tests.shards.conftest import RATE, make_corpus, training_of

CROP = RATE  # one second


PLACE = {"samples_seen", "rank", "world_size", "audio_only", "foreign"}


def shards_of(corpus, rate=RATE, **settings):
    return training_shards(*corpus, training_of(**settings), rate)


def batches(corpus, count=4, rate=RATE, seed=1, **given):
    place = {name: given.pop(name) for name in PLACE & set(given)}
    config = training_of(**{"global_batch_size": 5} | given)
    return list(islice(training_loader(shards_of(corpus), config, rate, seed, **place), count))


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


def test_other_seeds_other_batches(corpus):
    assert same(batches(corpus), batches(corpus))
    assert not same(batches(corpus), batches(corpus, seed=2))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_goes_on_at_any_sample(corpus, num_workers):
    whole = batches(corpus, 9, loader_workers=num_workers)  # three epochs and more
    assert same(whole[4:], batches(corpus, 5, loader_workers=num_workers, samples_seen=20))
    assert same(whole, batches(corpus, 9))


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("max_batch", [None, 1, 2])
def test_any_ranks_share_the_same_items(corpus, world_size, max_batch):
    whole = batches(corpus, 2)
    places = shares(5, world_size)
    for rank, place in enumerate(places):
        count = len(micro_batches(place, max_batch))
        changes = {"rank": rank, "world_size": world_size}
        parts = batches(corpus, 2 * count, max_batch_per_worker=max_batch, **changes)
        for step in range(2):
            mine = parts[step * count : (step + 1) * count]
            for field in ("audio", "lips", "noise", "uniforms"):
                found = torch.cat([getattr(part, field) for part in mine])
                expected = getattr(whole[step], field)[place.start : place.stop]
                assert torch.equal(found, expected), field


def test_shards_are_fetched_before_they_are_wanted(corpus, monkeypatch):
    """With the first of a shard's four clips those of the next shard, over the end of an epoch."""
    config = training_of(global_batch_size=4, shuffle_buffer=4)
    found, fetched = training_loader(shards_of(corpus), config, RATE, seed=1), []
    local = LocalStore.local

    def noted(store, name):
        if threading.current_thread() is not threading.main_thread():
            fetched.append(name)
        return local(store, name)

    monkeypatch.setattr(LocalStore, "local", noted)
    wanted = []
    for number in range(4):
        keys = next(found).keys
        (shard,) = {int(key.rpartition("-")[2]) // 4 for key in keys}
        wanted.append(shard)
        end = time.monotonic() + 10
        while len(fetched) < 2 * (number + 1) and time.monotonic() < end:
            time.sleep(0.01)
    order = [int(name.split("-")[1]) for name in fetched]
    assert order[::2] == wanted and order[1:-1:2] == wanted[1:]


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_shared_memory_that_is_too_small_is_told(corpus, monkeypatch, room):
    """As docker's 64 MB can be: torch would lose the batch and wait for it."""
    monkeypatch.setattr("davss.shards.loader.ROOM_PATIENCE", 0.2)
    usage = SimpleNamespace(total=room or 1000, free=room)
    monkeypatch.setattr("davss.shards.loader.shutil.disk_usage", lambda _: usage)
    if room:
        assert len(batches(corpus, 2, loader_workers=1)) == 2
        usage.free = 0
    with pytest.raises(DavssError, match="^/dev/shm: 0 MB free.*--shm-size.*loader_workers to 0"):
        batches(corpus, 2, loader_workers=1)


def test_every_epoch_has_each_clip_once_in_another_order(corpus):
    keys = [key for batch in batches(corpus, 12, global_batch_size=4) for key in batch.keys]
    epochs = [keys[:12], keys[12:24], keys[24:36]]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_mixed_with_clips_without_lips(corpus, tmp_path, monkeypatch):
    extra = shards_of(corpus)[:1]  # shards with lips do as well: they are left out
    found = batches(corpus, 8, global_batch_size=8, audio_only=extra, audio_only_fraction=0.25)
    assert all(batch.has_lips.sum() == 6 for batch in found)
    for batch in found:
        assert (batch.lips[~batch.has_lips] == 0).all()
    plain = batches(corpus, 6, global_batch_size=8)
    with_lips = [key for b in found for key, has in zip(b.keys, b.has_lips, strict=True) if has]
    assert with_lips == [key for batch in plain for key in batch.keys]
    varied = batches(
        corpus,
        2,
        global_batch_size=8,
        audio_only=extra,
        audio_only_fraction=0.25,
        augment=AugmentConfig(thin=1.0, dull=1.0),
    )
    for one, other in zip(found, varied, strict=False):
        assert one.keys == other.keys and torch.equal(one.has_lips, other.has_lips)
        assert not (one.audio == other.audio).all(dim=-1).any()


def test_items_have_sounds_of_the_other_kind_beside_them(corpus):
    shards = shards_of(corpus)
    beside = {"global_batch_size": 10, "foreign": shards[:1]}
    plain = batches(corpus, 4, global_batch_size=10)
    found = batches(corpus, 4, **beside)
    assert same(plain, found)  # they change nothing else
    for batch, other in zip(found, plain, strict=True):
        assert torch.equal(batch.noise, other.noise) and other.foreign is None
        assert batch.foreign.shape == (10, 2, CROP) and batch.keys == other.keys
    again = batches(corpus, 2, samples_seen=20, **beside)
    for batch, other in zip(found[2:], again, strict=True):  # an item is a function of its number
        assert torch.equal(batch.foreign, other.foreign)


def test_a_crop_is_the_part_of_the_whole(corpus):
    shard = shards_of(corpus)[0]
    raw = sample_of(shard.store, shard.name, shard.places[0])
    whole = decode(raw)
    for start in (0, 320, 4800, 11_200):
        part = decode(raw, lambda key, meta, start=start: (start, CROP))
        assert np.array_equal(part.audio, whole.audio[start : start + CROP])
        assert np.array_equal(part.lips, whole.lips[start // 320 : start // 320 + 25])


def test_audio_without_lips(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path, monkeypatch, with_lips=False)
    batch = batches(corpus, 1)[0]
    assert batch.lips is None
    assert not batch.has_lips.any()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_clip_shorter_than_crop(corpus, num_workers):
    with pytest.raises(DavssError, match=r"train.clips.parquet: .* lasts 2.40 s, the crop 3.00 s"):
        shards_of(corpus, crop_seconds=3.0)
    with pytest.raises(DavssError, match=r"^train-0\d\d: .* shorter than the crop [^\n]*$"):
        batches(corpus, crop_seconds=3.0, loader_workers=num_workers)


def test_other_rate(corpus):
    with pytest.raises(DavssError, match="clips at 8000 Hz, training wants 16000 Hz"):
        shards_of(corpus, 16_000)
    with pytest.raises(DavssError, match="8000 Hz, training wants 16000 Hz"):
        batches(corpus, rate=16_000)


def test_cut_and_missing_shards(corpus):
    paths = shards_of(corpus)
    loader = training_loader(paths, training_of(shuffle_buffer=1), RATE, seed=0)
    for shard in paths:
        with open(shard.store.local(shard.name), "rb+") as stream:
            stream.truncate(5000)
    with pytest.raises(DavssError, match="not the size of its manifest"):
        shards_of(corpus)
    with pytest.raises(DavssError, match=r"\.tar: shorter than its manifest says"):
        next(loader)
    for path in corpus.storage.rglob("*.tar"):
        path.unlink()
    with pytest.raises(DavssError, match="shard is missing"):
        shards_of(corpus)


def test_varied_crops_depend_on_their_number_alone(tmp_path, monkeypatch):
    noise = make_corpus(tmp_path, monkeypatch, with_lips=False)
    varied = AugmentConfig(
        sum_fraction=0.5, sum_db=(-10.0, 0.0), speed=(0.7, 1.4), colour_db=4.0, reverse=True
    )
    settings = {"augment": varied, "gain_db": (-10.0, 5.0)}
    found = batches(noise, 8, **settings)
    later = batches(noise, 2, samples_seen=30, **settings)
    plain = batches(noise, 8, gain_db=(-10.0, 5.0))
    assert torch.equal(found[6].audio, later[0].audio) and found[6].keys == later[0].keys
    assert {batch.audio.shape for batch in found} == {(5, CROP)}
    assert not any(torch.equal(a.audio, b.audio) for a, b in zip(found, plain, strict=True))
    # clips and their order are those of the plain stream
    assert [batch.keys for batch in found] == [batch.keys for batch in plain]
    level = torch.cat([batch.audio.square().mean(-1).sqrt() for batch in found])
    assert -11.5 < 20 * torch.log10(level.min() / 0.05) < 20 * torch.log10(level.max() / 0.05) < 6.5


def test_no_variation_changes_nothing(corpus):
    for plain, same in zip(batches(corpus), batches(corpus, augment=AugmentConfig()), strict=True):
        assert torch.equal(plain.audio, same.audio) and torch.equal(plain.noise, same.noise)
