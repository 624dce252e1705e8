"""Shards and manifests damaged at random: readers and validation say it in a line, or read on."""

from __future__ import annotations

import random
from itertools import islice

import pandas
import pytest

from davss.errors import DavssError
from davss.shards.loader import training_loader, training_shards
from davss.shards.reader import ShardReader
from davss.shards.validate import validate
from davss.storage import sha256
from tests.shards.conftest import RATE, Corpus, make_corpus, training_of

VALUES = (
    None,
    -1,
    0,
    511,
    2**40,
    2**62,
    -(2**62),
    float("nan"),
    "",
    "../x",
    "/x",
    "pipe:id",
    "a\nb",
)
VALUES += ("é" * 200,)
CALLS = 12


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A corpus of one shard a split, and what its training files hold."""
    corpus = make_corpus(tmp_path, monkeypatch, per_split=4)
    shard = next(corpus.storage.rglob("train-*.tar"))
    rows, clips = (corpus.manifests / f"train.{kind}" for kind in ("parquet", "clips.parquet"))
    return corpus, {path: path.read_bytes() for path in (shard, rows, clips)}


def read_all(corpus: Corpus) -> None:
    """Whatever reads shards; all that may be raised is one line."""
    assert all("\n" not in line for line in validate(*corpus))
    config = training_of(global_batch_size=4)
    for read in (
        lambda: list(ShardReader(*corpus, "train")),
        lambda: training_loader(training_shards(*corpus, config, RATE), config, RATE, seed=0),
    ):
        try:
            list(islice(read(), 2))
        except DavssError as error:
            assert "\n" not in str(error)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bits turned, a stretch gone or put in, or the end cut off."""
    place, size = rng.randrange(len(data)), rng.choice([1, 512, 5000])
    kinds = [data[:place], data[:place] + data[place + size :]]
    kinds.append(data[:place] + rng.randbytes(size) + data[place:])
    turned = bytearray(data)
    for _ in range(size // 50 + 1):
        turned[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return rng.choice([*kinds, bytes(turned)])


def test_damaged_shards_that_the_manifest_takes_for_right(files):
    corpus, (shard, rows, _) = files[0], files[1]
    for seed in range(CALLS):
        shard.write_bytes(damaged(files[1][shard], random.Random(seed)))
        facts = {"bytes": shard.stat().st_size, "sha256": sha256(shard)}
        pandas.read_parquet(rows).assign(**facts).to_parquet(rows)
        read_all(corpus)


@pytest.mark.parametrize("number", [1, 2])
def test_damaged_manifests(files, number):
    corpus, path = files[0], list(files[1])[number]
    for seed in range(CALLS):
        path.write_bytes(damaged(files[1][path], random.Random(seed)))
        read_all(corpus)


@pytest.mark.parametrize("number", [1, 2])
def test_manifests_with_wrong_values(files, number):
    corpus, path = files[0], list(files[1])[number]
    for seed in range(CALLS):
        rng = random.Random(seed)
        path.write_bytes(files[1][path])
        table = pandas.read_parquet(path)
        name = rng.choice(list(table.columns))
        column = list(table[name])
        column[rng.randrange(len(column))] = rng.choice(VALUES)
        table[name] = pandas.Series(column, dtype=object).map(
            str if any(isinstance(value, str) for value in column) else lambda value: value
        )
        table.to_parquet(path)
        read_all(corpus)
