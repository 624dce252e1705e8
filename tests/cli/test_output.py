"""The folder that `davss separate` writes: whole or as it was, whatever the disk does."""

import errno
import json
import os
import subprocess
import sys

import pytest
import soundfile
import torch

from davss.cli import output
from davss.cli.output import check_folder, source_files, write_results
from davss.errors import DavssError
from davss.media import audio

NAMES = source_files(2)


SPREAD = torch.ones(3, 2, 2)


def write(out, spread=SPREAD, value=0.0):
    sources = {name: torch.full((160,), value).split(100) for name in NAMES}
    return write_results(out, sources, 16000, spread, {"seed": 0})


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def full_disk_at(monkeypatch, nth):
    """The disk has room for `nth` recordings only."""
    opened = []
    target = audio._Target

    def limited(path, mode):
        opened.append(path)
        return target(path if len(opened) <= nth else "/dev/full", mode)

    monkeypatch.setattr(audio, "_Target", limited)


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, nth):
    full_disk_at(monkeypatch, nth)
    with pytest.raises(DavssError, match="--out .*: cannot be written .no space left on th"):
        write(tmp_path / "a" / "out")
    assert files(tmp_path) == []


def test_a_full_disk_leaves_an_earlier_separation(tmp_path, monkeypatch):
    write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    full_disk_at(monkeypatch, 2)
    with pytest.raises(DavssError):
        write(tmp_path, value=0.5)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_at_the_spread(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output.np, "savez_compressed", refuse)
    with pytest.raises(DavssError, match="no space left on"):
        write(tmp_path / "out")
    assert files(tmp_path) == []


def test_files_are_those_of_the_report(tmp_path):
    report = write(tmp_path / "out")
    assert files(tmp_path / "out") == sorted([*report["files"], "separation.json"])
    assert json.loads((tmp_path / "out" / "separation.json").read_text()) == report
    assert "spread.npz" not in write(tmp_path / "out", spread=None)["files"]
    assert files(tmp_path / "out") == sorted([*NAMES, "separation.json"])


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    check_folder(tmp_path / "a" / "b", NAMES, [], 100)
    assert files(tmp_path) == []
    (tmp_path / "out").mkdir()
    check_folder(tmp_path / "out", NAMES, [], 100)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("o" * 300, "cannot be written .file name too long"),
        ("deep/" * 1000, "cannot be written .file name too long"),
        ("x.wav/out", "cannot be written .not a directory"),
        ("x.wav", "a file of that name is in the way"),
        ("taken", "noise.wav there is a folder"),
    ],
)
def test_what_cannot_be_written_is_said_before(tmp_path, out, message):
    (tmp_path / "x.wav").touch()
    (tmp_path / "taken" / "noise.wav").mkdir(parents=True)
    before = files(tmp_path)
    with pytest.raises(DavssError, match=message):
        check_folder(tmp_path / out, NAMES, [], 100)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["noise.wav", "speaker_2.wav", "separation.json"])
@pytest.mark.parametrize("report", [None, "[]", "{}", '{"files": 5}', '{"files": ["b.wav", {}]}'])
def test_files_of_somebody_else_are_not_replaced(tmp_path, name, report):
    (tmp_path / name).write_text("a recording of the empty room")
    if report is not None and name != "separation.json":
        (tmp_path / "separation.json").write_text(report)
    with pytest.raises(DavssError, match="there is not of an earlier separation; move it or"):
        check_folder(tmp_path, NAMES, [], 100)


def test_an_earlier_separation_is_replaced(tmp_path):
    write(tmp_path)
    check_folder(tmp_path, NAMES, [], 100)
    (tmp_path / "speaker_3.wav").write_text("of somebody else")
    check_folder(tmp_path, NAMES, [], 100)
    with pytest.raises(DavssError, match="speaker_3.wav there is not of an earlier separation"):
        check_folder(tmp_path, source_files(3), [], 100)


def test_too_little_space_is_said_before(tmp_path):
    with pytest.raises(DavssError, match=r"no space left: 1e\+\d+|no space left: \d+"):
        check_folder(tmp_path / "out", NAMES, [], 10**18)
    assert files(tmp_path) == []


def test_an_hour_is_written_block_by_block(tmp_path):
    """Five minutes at 8 kHz as 48 kHz, 58 MB a source, in a process of its own."""
    lines = [
        "import resource, pathlib, torch",
        "from davss.cli.output import write_results",
        "from davss.posterior.recordings import blocks_at_rate",
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss",
        "source = torch.randn(2_400_000)",
        "write = lambda n: write_results(pathlib.Path('out'), {'speaker_1.wav': blocks_at_rate("
        "source[:n], 8000, 48000, 6 * n - 1)}, 48000, None, {})",
        "write(500_000); before = peak(); write(2_400_000)",
        "assert peak() - before < 30_000, peak() - before",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    info = soundfile.info(tmp_path / "out" / "speaker_1.wav")
    assert (info.frames, info.samplerate) == (14_399_999, 48_000)
