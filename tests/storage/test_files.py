"""Files and folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from davss.errors import DavssError
from davss.storage import LocalStore, publish, sha256, shard_store, storage_root


def test_publish_file_and_failure(tmp_path):
    path = tmp_path / "a" / "x.txt"
    with publish(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError), publish(path) as temporary:
        temporary.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.txt"]


def test_publish_replaces_a_folder_as_a_whole(tmp_path):
    for name in ("old", "new"):
        with publish(tmp_path / "out") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["new"]
    assert len(list(tmp_path.iterdir())) == 1


def test_where_things_lie(monkeypatch):
    for name in ("DAVSS_STORAGE", "DAVSS_STATE"):
        monkeypatch.delenv(name, raising=False)
    assert storage_root() == Path("storage")
    assert shard_store() == LocalStore(Path("storage").resolve())
    monkeypatch.setenv("DAVSS_STORAGE", "/big/disk")
    assert storage_root() == Path("/big/disk")
    assert shard_store() == LocalStore(Path("/big/disk"))
    monkeypatch.setenv("DAVSS_STORAGE", "s3://bucket/x")
    assert storage_root() == Path("storage")
    assert shard_store().locate("y") == "s3://bucket/x/y"
    monkeypatch.setenv("DAVSS_STATE", "/state")
    assert storage_root() == Path("/state")
    for name in ("DAVSS_STATE", "DAVSS_STORAGE"):
        monkeypatch.setenv(name, "gs://bucket")
        with pytest.raises(DavssError, match="gs://bucket: "):
            shard_store()


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x").startswith("ba7816bf")
