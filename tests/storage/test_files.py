"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from davss.errors import DavssError, StorageError
from davss.storage import LocalStore, open_storage, publish, sha256


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
    monkeypatch.delenv("DAVSS_STORAGE", raising=False)
    assert open_storage() == LocalStore(Path("storage").resolve())
    monkeypatch.setenv("DAVSS_STORAGE", "/big/disk")
    assert open_storage() == LocalStore(Path("/big/disk"))
    monkeypatch.setenv("DAVSS_STORAGE", "s3://bucket/x")
    assert open_storage().locate("y") == "s3://bucket/x/y"
    monkeypatch.setenv("DAVSS_STORAGE", "gs://bucket")
    with pytest.raises(DavssError, match="gs://bucket: "):
        open_storage()


def test_a_storage_that_is_not_what_was_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DAVSS_STORAGE", "~/davss")  # quoted, so that no shell took it apart
    assert open_storage() == LocalStore(tmp_path / "davss")
    for value in ("s3:/bucket/x", "s3:bucket", "storage\r", "s3://bucket/x\r", " "):
        monkeypatch.setenv("DAVSS_STORAGE", value)
        with pytest.raises(DavssError, match="^DAVSS_STORAGE=.*(correct|remove) it$") as caught:
            open_storage()
        assert "\r" not in str(caught.value)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_what_is_published_can_be_read_by_whoever_reads_the_folder(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        for name in ("file", "folder"):
            with publish(tmp_path / name) as temporary:
                file = temporary if name == "file" else temporary / "weights"
                file.parent.mkdir(exist_ok=True)
                os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    finally:
        os.umask(old)
    for file in (tmp_path / "file", tmp_path / "folder" / "weights"):
        assert file.stat().st_mode & 0o777 == mode
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x").startswith("ba7816bf")


def test_storage_that_is_a_file_or_in_a_closed_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("DAVSS_STORAGE", str(path))
        with pytest.raises(DavssError, match=f"^DAVSS_STORAGE={path}: .*file is a file; give"):
            open_storage()
    with pytest.raises(StorageError, match="below: Not a directory; correct"), publish(path / "x"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_storage_of_somebody_else(tmp_path, monkeypatch):
    closed, readable = tmp_path / "closed", tmp_path / "readable"
    for folder in (closed, readable):
        folder.mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    readable.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    monkeypatch.setenv("DAVSS_STORAGE", str(closed / "storage"))
    os.seteuid(54321)
    try:
        with pytest.raises(DavssError, match=r"^DAVSS_STORAGE=.*may not be read; give"):
            open_storage()
        with pytest.raises(StorageError, match=r"readable/x: Permission denied; correct"):
            LocalStore(readable).scratch("x").__enter__()
        with (
            pytest.raises(StorageError, match="Permission denied"),
            publish(readable / "x") as path,
        ):
            path.touch()
    finally:
        os.seteuid(0)
