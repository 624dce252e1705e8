"""Tasks whose process dies, disks that are full: the build goes on, or stops with one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas
import pytest
import ray
import soundfile

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError
from davss.shards import tasks, writer
from davss.shards.build import build_shards
from davss.shards.plan import ClipTable, plan_shards
from davss.storage import LocalStore

CONFIG = ShardsConfig(sample_rate=8000, min_seconds=1.0)


def clips_in(folder: Path, count: int) -> list[RawClip]:
    clips = []
    for index in range(count):
        path = folder / f"{index}.wav"
        audio = 0.1 * np.random.default_rng(index).standard_normal(32_000)
        soundfile.write(path, audio, 16_000)
        clips.append(RawClip(f"k-{index}", "train", "", path.name, path))
    return clips


def read_deadly(clip, config, with_mouth):
    """A decoder that takes its process with it, as C code may."""
    if clip.key == "k-3":
        os._exit(139)
    return tasks.read_recording(clip, config, with_mouth)


def write_deadly(*arguments):
    writer.read_recording = read_deadly
    writer.write_piece(*arguments)


def try_deadly(clip, config, with_mouth):
    read_deadly(clip, config, with_mouth)


@pytest.mark.slow
def test_a_clip_that_ends_its_process_is_one_reject(tmp_path, monkeypatch):
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    monkeypatch.setattr(tasks, "write_piece", write_deadly)
    monkeypatch.setattr(tasks, "_try", try_deadly)
    try:
        out, storage = tmp_path / "out", tmp_path / "st"
        summary = build_shards("wham", clips_in(tmp_path, 40), CONFIG, out, storage)
    finally:
        ray.shutdown()
    assert (summary.clips, summary.rejects) == (39, 1)
    rejects = pandas.read_parquet(tmp_path / "out/rejects.parquet")
    assert list(rejects.path) == ["3.wav"]
    assert "decoding it ends the process; encode it again" in rejects.reason[0]
    assert len(rejects.source_sha256[0]) == 64


def test_a_full_disk_stops_the_build_and_leaves_nothing_half(tmp_path, tiny_disk):
    clips = clips_in(tmp_path, 40)
    store = LocalStore(tiny_disk)
    with pytest.raises(DavssError, match=f"{tiny_disk}: no space left on this disk; free some"):
        writer.write_piece(clips, "notes/train-000000/0000", store, CONFIG, None)
    assert not [path for path in tiny_disk.rglob("*") if path.is_file()]
    writer.write_piece(clips[:8], "notes/train-000000/0000", store, CONFIG, None)
    assert writer.read_note(store, "notes/train-000000/0000.json").shard["bytes"] > 100_000


def test_a_damaged_piece_is_made_again(tmp_path):
    clips, store = clips_in(tmp_path, 3), LocalStore(tmp_path / "st")
    arguments = (clips, "n/train-000000/0000", store, CONFIG, None)
    writer.write_piece(*arguments)
    piece = tmp_path / "st/n/train-000000/0000.tar"
    content = piece.read_bytes()
    piece.write_bytes(content[:-1] + b"x")
    assemble = (["n/train-000000/0000"], "train-000000", "shards/x", "n", store)
    with pytest.raises(DavssError, match="0000.tar: damaged and removed; run the stage again"):
        writer.assemble(*assemble)
    assert not list((tmp_path / "st").rglob("shards/**/*.tar"))
    writer.write_piece(*arguments)
    assert piece.read_bytes() == content
    assert len(writer.assemble(*assemble).clips) == 3


def test_a_recording_that_changed_is_read_again(tmp_path):
    clips, store = clips_in(tmp_path, 3), LocalStore(tmp_path / "st")
    arguments = (clips, "n/train-000000/0000", store, CONFIG, None)
    writer.write_piece(*arguments)
    result = writer.assemble(["n/train-000000/0000"], "train-000000", "shards/x", "n", store)
    note = "n/train-000000.json"
    assert writer.recall(clips, note, store) == result
    clips[1].audio.write_bytes(clips[0].audio.read_bytes())
    assert writer.recall(clips, note, store) is None
    writer.write_piece(*arguments)
    again = writer.assemble(["n/train-000000/0000"], "train-000000", "shards/x", "n", store)
    digests = [row["source_sha256"] for row in again.clips]
    assert digests[0] == digests[1] != digests[2]


def test_plan_is_the_same_in_any_order_and_holds_every_clip_once(tmp_path):
    clips = [
        RawClip(
            f"k-{index}",
            ("train", "valid", "test")[index % 3],
            f"id{index}",
            f"{index}.mp4",
            Path(f"/root/{index}.mp4"),
            Path(f"/root/{index}.mp4") if index % 2 else None,
        )
        for index in range(1000)
    ]
    table, other = ClipTable(clips), ClipTable(reversed(clips))
    assert table.digest() == other.digest()
    assert list(table.clips()) == list(other.clips())
    assert sorted(table.clips(), key=lambda clip: int(clip.key[2:])) == clips
    shards = plan_shards(table, 70)
    found = [clip for shard in shards for clip in table.clips(shard.rows)]
    assert sorted(clip.key for clip in found) == sorted(clip.key for clip in clips)
    assert all(clip.split == shard.split for shard in shards for clip in table.clips(shard.rows))
    pieces = [rows for shard in shards for _, rows in shard.pieces()]
    assert max(map(len, pieces)) == 32 and sum(map(len, pieces)) == 1000
    assert table.has_video().sum() == 500
