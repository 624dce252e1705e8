"""The cores of a container: those its control groups give time for."""

import os

import pytest

from davss import cores


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine of 16 cores whose control groups lie below `tmp_path`."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(cores, "CONTROL", tmp_path)
    monkeypatch.setattr(cores, "MINE", tmp_path / "mine")
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("max 100000", 16), ("", 16)],
)
def test_version_2(groups, limit, expected):
    (groups / "mine").write_text("0::/\n")
    (groups / "cpu.max").write_text(f"{limit}\n")
    assert cores.count() == expected


def test_a_group_within_a_group(groups):
    (groups / "mine").write_text("1:name=systemd:/x\n0::/user.slice/job\n")
    (groups / "user.slice" / "job").mkdir(parents=True)
    (groups / "user.slice" / "job" / "cpu.max").write_text("max 100000\n")
    (groups / "user.slice" / "cpu.max").write_text("400000 100000\n")
    assert cores.count() == 4


def test_version_1_and_none(groups):
    assert cores.count() == 16
    (groups / "mine").write_text("4:cpu,cpuacct:/docker/x\n")
    (groups / "cpu").mkdir()  # a container sees its own group at the root
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.count() == 3
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores.count() == 16


def test_here():
    assert 1 <= cores.count() <= len(os.sched_getaffinity(0))
