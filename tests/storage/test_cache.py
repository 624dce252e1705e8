"""What a machine keeps of a bucket: within its size, last used longest, fetched once."""

from __future__ import annotations

import os
import threading
import time

import pytest

from davss.errors import DavssError
from davss.storage import cache
from davss.storage.cache import Cache


def test_least_recently_used_goes_first_and_what_is_open_reads_on(tmp_path, monkeypatch):
    monkeypatch.setenv("DAVSS_CACHE_GB", "3e-6")  # 3000 bytes
    monkeypatch.setattr(cache, "IN_USE", 50.0)
    kept = Cache(tmp_path)

    def get(name: str, age: float) -> None:
        path = kept.get(name, lambda path: path.write_bytes(bytes(1000)))
        os.utime(path, (time.time() - age,) * 2)

    for name, age in (("d/a", 300), ("b", 200), ("c", 100)):
        get(name, age)
    get("d/a", 60)  # used again, so that b goes
    with open(tmp_path / "b", "rb") as reading:
        get("e", 0)
        assert {p.name for p in tmp_path.rglob("[a-z]")} == {"d", "a", "c", "e"}
        assert len(reading.read()) == 1000
    for name in ("f", "g", "h"):  # in use now: larger than the limit, for a while
        get(name, 0)
    assert {p.name for p in tmp_path.glob("[a-z]")} == {"d", "e", "f", "g", "h"}
    monkeypatch.setenv("DAVSS_CACHE_GB", "much")
    with pytest.raises(DavssError, match="^DAVSS_CACHE_GB=much: give"):
        get("i", 0)


def test_many_ask_and_one_fetches(tmp_path):
    fetched = []

    def fetch(path):
        fetched.append(path)
        time.sleep(0.1)
        path.touch()

    threads = [threading.Thread(target=Cache(tmp_path).get, args=("x", fetch)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
