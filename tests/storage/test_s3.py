"""The S3 store against a real server: parts, ranges, dropped connections, refusals, full disks."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from davss.errors import DavssError
from davss.evaluation.records import finished, make_record, read_estimate, read_trace, write_record
from davss.storage import open_store, sha256
from davss.storage import s3 as module
from davss.storage.cache import Cache
from davss.storage.mirror import Mirror
from davss.storage.s3 import S3Store
from tests import s3_server


@pytest.fixture
def store(s3, tmp_path) -> S3Store:
    return S3Store.of_url(f"s3://{s3.bucket}/deep/er", Cache(tmp_path / "cache"))


@pytest.fixture
def proxy(s3, store, monkeypatch) -> s3_server.Proxy:
    """In front of the server of `store`."""
    proxy = s3_server.Proxy(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    module._client_of.cache_clear()
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def trouble(proxy: s3_server.Proxy, **counts: int) -> None:
    """Set the proxy's counters, for connections that are made from now on."""
    module._client_of.cache_clear()
    for name, value in counts.items():
        setattr(proxy, name, value)


def write(path: Path, size: int) -> str:
    path.write_bytes(os.urandom(size))
    return sha256(path)


def one_line(call) -> str:
    with pytest.raises(DavssError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip(store, tmp_path):
    digest = write(tmp_path / "x", 300_000)
    store.put(tmp_path / "x", "a/b/ü 1.bin")
    assert not (tmp_path / "x").exists(), "put moves"
    (tmp_path / "empty").touch()
    store.put(tmp_path / "empty", "a/empty")
    assert sorted((e.name, e.size) for e in store.list("a")) == [
        ("a/b/ü 1.bin", 300_000),
        ("a/empty", 0),
    ]
    assert store.stat("a/b/ü 1.bin").version == next(store.list("a/b")).version
    assert sha256(store.local("a/b/ü 1.bin")) == digest
    assert store.open("a/b/ü 1.bin").read() == store.local("a/b/ü 1.bin").read_bytes()
    assert store.open("a/empty").read() == b""
    assert store.stat("a/b") is None and list(store.list("a/b/ü")) == []
    assert pickle.loads(pickle.dumps(store)) == store
    store.remove("a/b")
    assert [entry.name for entry in store.list("")] == ["a/empty"]


def test_large_files_go_in_parts_and_are_listed_in_pages(store, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 5 << 20)
    digest = write(tmp_path / "x", 12 << 20)
    store.put(tmp_path / "x", "large")
    assert store.stat("large").version.strip('"').endswith("-3"), "three parts"
    store.fetch("large", tmp_path / "y")
    assert sha256(tmp_path / "y") == digest
    client = s3_server.client(s3.port)
    for number in range(1005):
        client.put_object(Bucket=s3.bucket, Key=f"deep/er/many/{number}", Body=b"")
    assert len(list(store.list("many"))) == 1005


def test_a_broken_download_is_read_again(store, proxy, tmp_path):
    write(tmp_path / "x", 3 << 20)
    content = (tmp_path / "x").read_bytes()
    store.put(tmp_path / "x", "x")
    trouble(proxy, cuts=4, cut_after=500_000)
    with store.open("x") as stream:
        assert stream.read() == content
    assert proxy.cuts == 0 and proxy.connections >= 5


def test_an_object_that_changes_meanwhile_is_not_mixed(store, s3, monkeypatch):
    monkeypatch.setattr(module, "PART", 1 << 20)
    client = s3_server.client(s3.port)
    client.put_object(Bucket=s3.bucket, Key="deep/er/x", Body=b"a" * (3 << 20))
    head = type(module._client()).head_object

    def changed_after(self, **asked):
        found = head(self, **asked)
        client.put_object(Bucket=s3.bucket, Key="deep/er/x", Body=os.urandom(3 << 20))
        return found

    monkeypatch.setattr(type(module._client()), "head_object", changed_after)
    assert "x: changed while it was read" in one_line(lambda: store.open("x"))


def test_uploads_survive_dropped_connections_and_503(store, proxy, tmp_path):
    digest = write(tmp_path / "x", 1 << 20)
    trouble(proxy, cuts=1, cut_after=-1, unavailable=2)
    store.put(tmp_path / "x", "x")
    assert (proxy.cuts, proxy.unavailable) == (0, 0)
    assert sha256(store.local("x")) == digest


def test_what_stays_broken_is_told_and_loses_nothing(store, proxy, tmp_path, monkeypatch):
    write(tmp_path / "x", 1000)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    trouble(proxy, unavailable=100)
    assert "/deep/er/x: the server answers SlowDown again and again" in one_line(
        lambda: store.put(tmp_path / "x", "x")
    )
    trouble(proxy, unavailable=0, cuts=100, cut_after=-1)
    message = one_line(lambda: store.fetch("x", tmp_path / "y"))
    assert f"no connection to {proxy.url}" in message and "AWS_ENDPOINT_URL" in message
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    trouble(proxy, cuts=0)
    store.put(tmp_path / "x", "x")
    write(tmp_path / "x", 400_000)
    store.put(tmp_path / "x", "x")
    trouble(proxy, cuts=100, cut_after=1000)
    assert f"no connection to {proxy.url}" in one_line(lambda: store.open("x"))


def test_wrong_keys_and_missing_things(store, s3, tmp_path, monkeypatch):
    assert "x: no such object" in one_line(lambda: store.open("x"))
    assert "x: no such object" in one_line(lambda: store.local("x"))
    assert not (tmp_path / "cache" / s3.bucket / "deep/er/x").exists()
    absent = S3Store("no-such-bucket", "", Cache(tmp_path))
    (tmp_path / "f").write_text("1")
    calls = [lambda: absent.stat("x"), lambda: absent.open("x"), lambda: list(absent.list(""))]
    for call in calls:
        assert "there is no bucket 'no-such-bucket'" in one_line(call)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    module._client_of.cache_clear()
    for call in (lambda: store.stat("x"), lambda: list(store.list(""))):
        assert "access denied" in one_line(call) and "AWS_SECRET_ACCESS_KEY" in one_line(call)
    assert "access denied" in one_line(lambda: store.put(tmp_path / "f", "x"))
    assert (tmp_path / "f").exists(), "what could not be put is still here"


def test_no_credentials_and_no_server(store, tmp_path, monkeypatch, capsys):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    module._client_of.cache_clear()
    assert "no AWS credentials" in one_line(lambda: store.open("x"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_server.free_port()}")
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    module._client_of.cache_clear()
    assert "no connection to http://127.0.0.1" in one_line(lambda: store.open("x"))
    assert capsys.readouterr().err.count("does not answer; trying again") == 1, (
        "nobody waits unsaid"
    )


def test_a_full_disk_is_told_and_left_as_it_was(store, tiny_disk, tmp_path):
    write(tmp_path / "x", 3 << 20)
    store.put(tmp_path / "x", "x")
    assert "no space left on this disk" in one_line(lambda: store.fetch("x", tiny_disk / "y"))
    assert list(tiny_disk.iterdir()) == []
    local = open_store(tiny_disk)
    write(tmp_path / "x", 3 << 20)
    assert "no space left on this disk" in one_line(lambda: local.put(tmp_path / "x", "x"))
    assert list(tiny_disk.iterdir()) == [] and (tmp_path / "x").stat().st_size == 3 << 20


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://", "s3:///x"])
def test_other_urls(url):
    assert url in one_line(lambda: open_store(url))


def test_a_mirror_keeps_a_folder_for_the_next_machine(store, tmp_path):
    """Files named by their contents, once each; one that grows, again and again."""
    here, there = (Mirror(store, "run", tmp_path / name) for name in ("here", "there"))
    (here.folder / "kept").mkdir(parents=True)
    for name in ("a", "b", ".hidden"):
        (here.folder / "kept" / name).write_text(name)
    here.push("kept")
    version = store.stat("run/kept/a").version
    here.push("kept")
    assert store.stat("run/kept/a").version == version and here.names("kept") == ["a", "b"]
    assert not there.receive("log")
    for text in ("one ", "two"):
        with open(here.folder / "log", "a") as log:
            log.write(text)
        here.send("log")
    there.pull("kept")
    assert sorted(path.name for path in (there.folder / "kept").iterdir()) == ["a", "b"]
    assert there.receive("log") and (there.folder / "log").read_text() == "one two"
    there.remove("kept")
    assert not here.names("kept") and here.has("log")


def test_an_estimate_is_written_to_a_bucket_and_found_again(store):
    sources = np.random.default_rng(0).standard_normal((2, 800)).astype(np.float32)
    row = {"key": "k", "num_speakers": 1}
    record = write_record(
        store, "estimates/x/k", make_record(row, sample_rate=8000), sources, {"sigma": np.ones(2)}
    )
    assert finished(store, "estimates/x/k") == record | {"residual_db": ANY}
    found, rate = read_estimate(store, record["path"])
    np.testing.assert_array_equal(found, sources)
    assert rate == 8000 and list(read_trace(store, record["path"])) == ["sigma"]
    with store.scratch("") as folder:
        (folder / "x").write_bytes(b"another")
        store.put(folder / "x", record["path"])
    assert finished(store, "estimates/x/k") is None, "its sound is another"
