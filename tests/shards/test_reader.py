"""Random access and validation of shards."""

from __future__ import annotations

import pickle

import pandas
import pytest

from davss.errors import DavssError
from davss.shards.reader import ShardReader, check_shard
from davss.shards.validate import validate
from davss.storage import LocalStore


def test_clips_by_key(corpus):
    reader = ShardReader(corpus.manifests, corpus.storage, "test")
    keys = [clip.key for clip in reader]
    assert keys == list(reader.clips.key)
    assert len(reader) == 12
    assert reader["test-011"].lips.shape == (60, 6)
    assert "train-000" not in reader
    copy = pickle.loads(pickle.dumps(reader))
    assert (copy["test-003"].audio == reader["test-003"].audio).all()


def test_unknown_key_and_split(corpus, tmp_path):
    reader = ShardReader(corpus.manifests, corpus.storage, "test")
    with pytest.raises(DavssError, match=r"train-000: not in .*test.clips.parquet"):
        reader["train-000"]
    with pytest.raises(DavssError, match="no such manifest; run the shards stage"):
        ShardReader(tmp_path, corpus.storage, "test")
    clips = corpus.manifests / "valid.clips.parquet"
    pandas.read_parquet(clips).iloc[:0].to_parquet(clips)
    with pytest.raises(DavssError, match="no clips in split 'valid'"):
        ShardReader(corpus.manifests, corpus.storage, "valid")


@pytest.mark.parametrize("name", ["pipe:id", "/etc/passwd", "../x.tar"])
def test_shards_lie_in_the_storage(name, tmp_path):
    with pytest.raises(DavssError, match="not a path relative to the storage"):
        check_shard(LocalStore(tmp_path), name)


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(DavssError, match="shard is missing"):
        check_shard(LocalStore(tmp_path), "x" * 300)


def test_validate_finds_leaking_speakers_only(corpus):
    problems = validate(corpus.manifests, corpus.storage)
    assert problems == [f"speaker id{n}: in test and in train or valid" for n in range(3)]


def test_validate_finds_changed_bytes_and_rows(corpus):
    shard = next(corpus.storage.rglob("train-000001-*.tar"))
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    table = corpus.manifests / "test.clips.parquet"
    rows = pandas.read_parquet(table)
    rows.loc[2, "num_samples"] = 5
    rows.to_parquet(table)
    problems = validate(corpus.manifests, corpus.storage)
    assert any(f"{shard}: sha256 differs" in line for line in problems)
    assert any("test-002 differs from its row" in line for line in problems)
    next(corpus.storage.rglob("valid-000000-*.tar")).unlink()
    assert any("shard is missing" in line for line in validate(*corpus))
