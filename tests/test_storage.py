"""Files and folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from davss.errors import DavssError
from davss.storage import publish, sha256, storage_root


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


def test_storage_root(monkeypatch):
    monkeypatch.delenv("DAVSS_STORAGE", raising=False)
    assert storage_root() == Path("storage")
    monkeypatch.setenv("DAVSS_STORAGE", "/big/disk")
    assert storage_root() == Path("/big/disk")
    monkeypatch.setenv("DAVSS_STORAGE", "s3://bucket")
    with pytest.raises(DavssError, match="only local paths"):
        storage_root()


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x").startswith("ba7816bf")
