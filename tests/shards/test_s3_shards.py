"""Raw corpora in a bucket → shards in a bucket → readers, validation and training from there."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile

from davss.cli import main
from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError
from davss.shards import sources
from davss.shards.build import build_shards
from davss.shards.loader import training_loader, training_shards
from davss.shards.reader import ShardReader
from davss.shards.validate import validate
from davss.shards.writer import write_piece
from davss.storage import LocalStore, open_store, sha256
from davss.storage import s3 as module
from davss.storage.cache import Cache
from davss.storage.s3 import S3Store
from tests import s3_server
from tests.shards.conftest import training_of

CONFIG = ShardsConfig(sample_rate=8000, min_seconds=1.0, shard_megabytes=0.1)
COUNTS = {"train": 9, "valid": 2, "test": 3}


@pytest.fixture
def raw(tmp_path, s3) -> list[RawClip]:
    """Noise in the bucket, and the same below `raw` on this machine; one file is broken."""
    bucket, clips = open_store(f"s3://{s3.bucket}/raw"), []
    for split, count in COUNTS.items():
        for index in range(count):
            name = f"{split}/é {index}.wav"
            path = tmp_path / "raw" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(index)
            soundfile.write(path, 0.1 * rng.standard_normal((32_000, 2)), 16_000)
            if (split, index) == ("train", 7):
                path.write_bytes(b"RIFF nothing")
            (tmp_path / "copy").write_bytes(path.read_bytes())
            bucket.put(tmp_path / "copy", name)
            clips.append(RawClip(f"{split}-{index}", split, "", name, bucket.locate(name)))
    return clips


def build(clips, out: Path, store):
    return build_shards("wham", clips, CONFIG, out, store)


def tables(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


@pytest.mark.slow
def test_bucket_and_folder_hold_the_same(raw, s3, tmp_path, monkeypatch, capsys):
    local = [
        RawClip(clip.key, clip.split, "", clip.source, tmp_path / "raw" / clip.source)
        for clip in raw
    ]
    store = S3Store.of_url(f"s3://{s3.bucket}/davss", Cache(tmp_path / "cache"))
    summary = build(raw, tmp_path / "out", store)
    assert (summary.clips, summary.rejects) == (13, 1)
    build(local, tmp_path / "local", tmp_path / "st")
    assert tables(tmp_path / "out") == tables(tmp_path / "local")
    rejects = pandas.read_parquet(tmp_path / "out/rejects.parquet")
    assert list(rejects.path) == ["train/é 7.wav"]
    assert rejects.reason[0].startswith("train/é 7.wav: a text file, not a recording")
    names = sorted(entry.name for entry in store.list("shards/wham"))
    there = LocalStore(tmp_path / "st").list("shards/wham")
    tars = [name for name in names if name.endswith(".tar")]
    assert tars == sorted(entry.name for entry in there if entry.name.endswith(".tar"))
    assert not [name for name in names if name.count("/") > 3], "pieces are gone"

    assert validate(tmp_path / "out", store) == []
    monkeypatch.setenv("DAVSS_STORAGE", f"s3://{s3.bucket}/davss")
    main(["validate", str(tmp_path / "out")])
    assert capsys.readouterr().out.endswith("out: valid\n")

    versions = {entry.name: entry.version for entry in store.list("shards/wham")}
    store.remove(tars[0])
    build(raw, tmp_path / "again", store)
    assert tables(tmp_path / "again") == tables(tmp_path / "out")
    again = {entry.name: entry.version for entry in store.list("shards/wham")}
    assert again.keys() == versions.keys()


@pytest.fixture
def shards(raw, s3, tmp_path):
    """Manifests and the store of shards that were written by hand, without Ray."""
    from davss.shards.manifests import write_manifests
    from davss.shards.writer import assemble

    store = S3Store.of_url(f"s3://{s3.bucket}/davss", Cache(tmp_path / "cache"))
    results = []
    for split in COUNTS:
        clips = [clip for clip in raw if clip.split == split]
        write_piece(clips, f"notes/{split}-000000/0000", store, CONFIG, None)
        piece = [f"notes/{split}-000000/0000"]
        results.append(assemble(piece, f"{split}-000000", "shards/wham", "notes", store))
    (tmp_path / "out").mkdir()
    write_manifests(results, tmp_path / "out")
    return tmp_path / "out", store


def batches(shards, num_workers: int, cache: Path):
    store = replace(shards[1], cache=Cache(cache))
    config = training_of(global_batch_size=4, loader_workers=num_workers, shuffle_buffer=1000)
    locations = training_shards(shards[0], store, config, 8000)
    return list(islice(training_loader(locations, config, 8000, seed=1), 6))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_reads_through_a_connection_that_drops(
    shards, s3, monkeypatch, num_workers, tmp_path
):
    expected = batches(shards, num_workers, tmp_path / "one")
    proxy = s3_server.Proxy(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    module._client_of.cache_clear()
    proxy.cuts, proxy.cut_after, proxy.unavailable = 3, 100_000, 2
    found = batches(shards, num_workers, tmp_path / "two")
    assert all((a.audio == b.audio).all() for a, b in zip(expected, found, strict=True))
    assert (proxy.cuts, proxy.unavailable) == (0, 0)
    proxy.shutdown()
    proxy.server_close()


def test_readers_copy_shards_once(shards, tmp_path):
    out, store = shards
    assert validate(out, store) == []
    reader = ShardReader(out, store, "test")
    first = [clip.audio for clip in reader]
    store.remove(reader.clips.shard[0])
    assert all((a == clip.audio).all() for a, clip in zip(first, reader, strict=True))
    with pytest.raises(DavssError, match=r"s3://.*: shard is missing; .* shards@wham`"):
        ShardReader(out, store, "test")[reader.clips.key[0]]


def test_an_outage_rejects_no_clip(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_server.free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    module._client_of.cache_clear()
    monkeypatch.setattr("davss.shards.writer.version", lambda clip: "")
    with pytest.raises(DavssError, match="no connection to"):
        write_piece(raw[:3], "p/0000", LocalStore(tmp_path / "st"), CONFIG, None)
    assert not list((tmp_path / "st").rglob("*.json"))


def test_a_bucket_that_cannot_be_used_stops_before_any_work(s3, tmp_path, monkeypatch):
    def clips():
        raise AssertionError("the corpus was listed")
        yield

    absent = open_store("s3://no-such-bucket/x")
    with pytest.raises(DavssError, match="there is no bucket 'no-such-bucket'; make it or correct"):
        build(clips(), tmp_path / "out", absent)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    module._client_of.cache_clear()
    denied = r"access denied \(SignatureDoesNotMatch\); check AWS_ACCESS_KEY_ID"
    with pytest.raises(DavssError, match=denied):
        build(clips(), tmp_path / "out", open_store(f"s3://{s3.bucket}/x"))


def test_a_file_that_is_gone_is_one_reject(raw, s3, tmp_path):
    open_store(f"s3://{s3.bucket}/raw").remove(raw[1].source)
    store = LocalStore(tmp_path / "st")
    write_piece(raw[:3], "p/0000", store, CONFIG, None)
    from davss.shards.writer import read_note

    note = read_note(store, "p/0000.json")
    assert [row["path"] for row in note.rejects] == [raw[1].source] and len(note.clips) == 2
    assert "no such object; check the path" in note.rejects[0]["reason"]
    assert sources.version(raw[1]) == "-" and len(sources.version(raw[0])) > 20
