"""Tar files that are no shards: one clear error each, and nothing of them is run or unpacked."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pandas
import pytest

from davss.errors import DavssError
from davss.shards.loader import training_loader, training_shards
from davss.shards.reader import ShardReader
from davss.shards.validate import validate
from davss.storage import sha256
from tests.shards.conftest import RATE, sample

Member = tuple[str, bytes]


class Malicious:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("was-here",)


def array(value, allow_pickle: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=allow_pickle)
    return buffer.getvalue()


def members_of(key_index: int) -> list[Member]:
    made = sample(key_index)
    return [(f"{made['__key__']}.{n}", v) for n, v in sorted(made.items()) if n != "__key__"]


def write(path: Path, members: list[Member | tarfile.TarInfo]) -> None:
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


GOOD = members_of(0)
KEY = GOOD[0][0].partition(".")[0]
PICKLED = array(np.array([Malicious()], dtype=object), allow_pickle=True)
BAD = {
    "outside": ([("../evil.audio.flac", b"x"), *GOOD], r"member '../evil.audio.flac' is none"),
    "absolute": ([("/etc/evil.meta.json", b"x"), *GOOD], "member '/etc/evil.meta.json' is none"),
    "pickle": ([*GOOD, (f"{KEY}.lips.pkl", pickle.dumps(Malicious()))], "lips.pkl' is none of a"),
    "pickled array": (
        [(n, PICKLED if n.endswith("npy") else v) for n, v in GOOD],
        "lips.npy is not a plain array",
    ),
    "link": ([link(f"{KEY}.audio.flac", "/etc/passwd"), *GOOD[1:]], "audio.flac' is none of"),
    "twice": ([*GOOD, GOOD[0]], "audio.flac comes twice"),
    "absent": (GOOD[1:], r"member audio.flac is missing"),
    "no json": ([*GOOD[:2], (GOOD[2][0], b"{")], "meta.json is not JSON"),
    "no flac": ([(GOOD[0][0], b"fLaC"), *GOOD[1:]], "audio.flac cannot be decoded"),
}


@pytest.fixture
def shard(corpus, tmp_path, monkeypatch) -> Path:
    """The first shard of `corpus`, in whose place others are put; nothing but it is left."""
    monkeypatch.chdir(tmp_path)
    manifest, clips = (corpus.manifests / f"train.{kind}" for kind in ("parquet", "clips.parquet"))
    rows = pandas.read_parquet(manifest).iloc[:1]
    rows.to_parquet(manifest)
    table = pandas.read_parquet(clips)
    table[table.shard == rows.shard[0]].iloc[:1].to_parquet(clips)
    return corpus.storage / rows.shard[0]


def record(corpus, shard: Path) -> None:
    """Let the manifest say that the shard is as it should be."""
    manifest = corpus.manifests / "train.parquet"
    rows = pandas.read_parquet(manifest)
    rows["bytes"], rows["sha256"] = shard.stat().st_size, sha256(shard)
    rows.to_parquet(manifest)


def told_by(corpus) -> list[str]:
    """What validation, reading by key, and training say."""
    problems = [line for line in validate(*corpus) if not line.startswith("speaker ")]
    said = [problems[0]]
    for read in (read_by_key, train):
        with pytest.raises(DavssError) as caught:
            read(corpus)
        said.append(str(caught.value))
    return said


def read_by_key(corpus) -> None:
    list(ShardReader(corpus.manifests, corpus.storage, "train"))


def train(corpus) -> None:
    paths = training_shards(
        corpus.manifests, corpus.storage, "train", crop_samples=RATE, sample_rate=RATE
    )
    sizes = {"crop_samples": RATE, "sample_rate": RATE, "batch_size": 2, "shuffle_buffer": 1}
    list(islice(training_loader(paths, **sizes, seed=0), 4))


@pytest.mark.parametrize("bad", BAD)
def test_bad_members(corpus, shard, bad, tmp_path):
    members, message = BAD[bad]
    write(shard, members)
    record(corpus, shard)
    for said in told_by(corpus):
        assert message in said and "\n" not in said
    assert not (tmp_path / "was-here").exists(), "code of a shard was run"
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("where", [700, 2000])
def test_a_shard_that_was_cut(corpus, shard, where):
    os.truncate(shard, where)
    with pytest.raises(DavssError, match="has not the size of its manifest; run `dvc repro -f -s"):
        train(corpus)
    assert any("has not the size of its manifest" in line for line in validate(*corpus))
    record(corpus, shard)
    for said in told_by(corpus):
        assert f"{shard}: not a readable shard; run the shards stage again" == said


def test_what_is_no_tar_file(corpus, shard):
    shard.write_bytes(b"no tar file" * 1000)
    record(corpus, shard)
    for said in told_by(corpus):
        assert f"{shard}: not a readable shard; run the shards stage again" == said


def test_a_key_in_two_shards(corpus):
    path = corpus.manifests / "train.clips.parquet"
    table = pandas.read_parquet(path)
    table.loc[5, "key"] = table.key[0]
    table.to_parquet(path)
    for read in (read_by_key, train):
        with pytest.raises(DavssError, match="train.clips.parquet: clip train-000 comes twice"):
            read(corpus)
    assert "train-000: occurs twice" in validate(*corpus)


def test_members_that_are_not_sorted_or_not_adjacent(corpus, shard):
    write(shard, [GOOD[2], GOOD[0], GOOD[1]])
    record(corpus, shard)
    assert f"{shard}: members of {KEY} are not sorted" in validate(*corpus)
    other = members_of(1)
    write(shard, [*GOOD[:2], *other, GOOD[2]])
    record(corpus, shard)
    assert any("is missing; rebuild the shard" in line for line in validate(*corpus))
