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
from tests.shards.conftest import RATE, sample, training_of

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


GOOD, MORE = members_of(0), members_of(1)
KEY = GOOD[0][0].partition(".")[0]
PICKLED = array(np.array([Malicious()], dtype=object), allow_pickle=True)
FOREIGN = "' is not what the manifest says"
BAD = {
    "outside": ([("../evil.audio.flac", b"x"), *GOOD], "member '../evil.audio.flac" + FOREIGN),
    "absolute": ([("/etc/evil.meta.json", b"x"), *GOOD], "member '/etc/evil.meta.json" + FOREIGN),
    "pickled array": (
        [(n, PICKLED if n.endswith("npy") else v) for n, v in GOOD],
        "lips.npy is not a plain array",
    ),
    "link": ([link(f"{KEY}.audio.flac", "/etc/passwd"), *GOOD[1:], *MORE], "audio.flac" + FOREIGN),
    "absent": ([*GOOD[1:], *MORE], "lips.npy" + FOREIGN),
    "two keys": ([("other.audio.flac", GOOD[0][1]), *GOOD[1:]], "are not together"),
    "no json": ([*GOOD[:2], (GOOD[2][0], b"{")], "meta.json is not JSON"),
    "no object": ([*GOOD[:2], (GOOD[2][0], b"[1]")], "meta.json lacks 'schema_version'"),
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


def record(corpus, shard: Path, placed: bool = True) -> None:
    """Let the manifests say that the shard is as it should be, with its members where they are."""
    clips = corpus.manifests / "train.clips.parquet"
    table = pandas.read_parquet(clips)
    for name, offset, size in walk(shard):
        if placed and name in dict(GOOD):
            table[[f"{name.split('.')[1]}_offset", f"{name.split('.')[1]}_bytes"]] = offset, size
    table.to_parquet(clips)
    manifest = corpus.manifests / "train.parquet"
    rows = pandas.read_parquet(manifest)
    rows["bytes"], rows["sha256"] = shard.stat().st_size, sha256(shard)
    rows.to_parquet(manifest)


def walk(shard: Path) -> list[tuple[str, int, int]]:
    """Names, offsets and sizes of the members of a tar file; none of what is none."""
    try:
        with tarfile.open(shard) as archive:
            return [(member.name, member.offset_data, member.size) for member in archive]
    except tarfile.TarError:
        return []


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
    config = training_of(global_batch_size=2, shuffle_buffer=1)
    shards = training_shards(*corpus, config, RATE)
    list(islice(training_loader(shards, config, RATE, seed=0), 4))


@pytest.mark.parametrize("bad", BAD)
def test_bad_members(corpus, shard, bad, tmp_path):
    members, message = BAD[bad]
    write(shard, members)
    record(corpus, shard, placed=bad.startswith(("no ", "pickled")))
    for said in told_by(corpus):
        assert message in said and "\n" not in said
    assert not (tmp_path / "was-here").exists(), "code of a shard was run"
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("extra", [(f"{KEY}.lips.pkl", pickle.dumps(Malicious())), GOOD[0]])
def test_a_member_too_many_is_seen_by_validation_and_read_by_nobody(corpus, shard, extra, tmp_path):
    write(shard, [*GOOD, extra])
    record(corpus, shard)
    places = pandas.read_parquet(corpus.manifests / "train.clips.parquet")
    places["audio_offset"] = 512
    places.to_parquet(corpus.manifests / "train.clips.parquet")
    assert f"{shard}: holds more than the manifest says" in validate(*corpus)
    read_by_key(corpus)
    train(corpus)
    assert not (tmp_path / "was-here").exists(), "code of a shard was run"


@pytest.mark.parametrize("where", [700, 2000])
def test_a_shard_that_was_cut(corpus, shard, where):
    os.truncate(shard, where)
    with pytest.raises(DavssError, match="has not the size of its manifest; run `dvc repro -f -s"):
        train(corpus)
    assert any("has not the size of its manifest" in line for line in validate(*corpus))
    record(corpus, shard)
    for said in told_by(corpus):
        assert f"{shard}: shorter than its manifest says; run the shards stage again" == said


def test_what_is_no_tar_file(corpus, shard):
    shard.write_bytes(b"no tar file" * 10_000)
    record(corpus, shard)
    for said in told_by(corpus):
        assert str(shard) in said and "not a readable shard; run the shards stage again" in said


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
    for members in ([GOOD[2], GOOD[0], GOOD[1]], [*GOOD[:2], *members_of(1), GOOD[2]]):
        write(shard, members)
        record(corpus, shard)
        for said in told_by(corpus):
            assert "lie outside the shard; run the shards stage again" in said


def test_a_gap_between_clips_is_seen_by_validation(corpus, shard):
    write(shard, [*members_of(1), *GOOD])
    record(corpus, shard)
    read_by_key(corpus)
    assert any("does not begin where the clip before it ends" in line for line in validate(*corpus))


@pytest.mark.parametrize("size", [0, -1, 2**40, 2**62, 2**63 - 513])
def test_sizes_that_no_member_can_have(corpus, shard, size):
    path = corpus.manifests / "train.clips.parquet"
    pandas.read_parquet(path).assign(meta_bytes=size).to_parquet(path)
    for said in told_by(corpus):
        assert "lie outside the shard" in said or "shorter than its manifest says" in said


def test_a_manifest_without_places_says_so(corpus, shard):
    path = corpus.manifests / "train.clips.parquet"
    pandas.read_parquet(path).drop(columns="lips_offset").to_parquet(path)
    for said in told_by(corpus):
        assert said == (
            f"{path}: no 'lips_offset': written by another version; run the shards stage again"
        )
