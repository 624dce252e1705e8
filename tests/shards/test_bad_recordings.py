"""Bad recordings of real layouts: each is one reject or one clear error, never a crash."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest
import soundfile

from davss.config import ShardsConfig
from davss.corpora import RawClip, voxceleb2, wham
from davss.corpora.demo_face import Motion, Portrait
from davss.corpora.demo_head import draw_identity
from davss.errors import DavssError, StorageError
from davss.media.decoding import require_file
from davss.networks.eigenlips import Eigenlips
from davss.shards.build import build_shards
from davss.shards.manifests import write_manifests
from davss.shards.reader import ShardReader
from davss.shards.sample import read_mouth, read_recording
from davss.shards.validate import validate
from tests.media.making import write
from tests.shards.conftest import write_shard

CONFIG = ShardsConfig(sample_rate=8000, min_seconds=1.0, num_components=4)
NUM_FRAMES, RATE = 30, 16_000
GOOD = "id00001/good/00001"
KEPT = {GOOD, "id00001/48 kHz/00001", "id00001/two faces/00001", "id00001/Zürich.tv – 1/00.2.b"}
REJECTED = {
    "truncated": r"breaks off before its index is complete",
    "empty": r"the file is empty \(0 bytes\)",
    "no sound": r"has no sound; choose a file with one",
    "no picture": r"has no moving picture; choose a file with one",
    "30 fps": r"30 frames per second, 25 are needed",
    "no face": r"no face found in 100 %",
    "profile": r"seen from the side in|no face found in",
    "text": r"not a recording that can be read",
    "lfs": r"a Git LFS pointer, not the file itself; run `git lfs pull`",
    "bad wav": r"cut short: its header promises 500000 samples .*, the file holds 19200",
}


def draw(seed: int, talk: float = 1.0) -> np.ndarray:
    """A drawn person who opens and closes the mouth, (V, 224, 224, 3)."""
    rng, time = np.random.default_rng(seed), np.arange(NUM_FRAMES)
    pose = np.stack([0 * time, 0 * time, 0 * time, 1 + 0.0 * time], 1)
    motion = Motion(talk * (0.5 - 0.5 * np.cos(time / 2)), 0.5 + 0 * time, 0.0 * time, pose)
    return Portrait(draw_identity(rng, feminine=True), rng).render(motion, rng)


def turned(frames: np.ndarray, degrees: float = 80) -> np.ndarray:
    """A drawn head seen from the side: its picture on a round head that is turned."""
    size, radius = frames.shape[1], 80.0
    x, y = np.meshgrid(np.arange(size) - size / 2.0, np.arange(size, dtype=float))
    inside = np.abs(x) < radius
    angle = np.arcsin(np.clip(x / radius, -1, 1)) + np.radians(degrees)
    source = np.where(inside & (angle < np.pi / 2), radius * np.sin(angle), size)
    maps = (source + size / 2).astype(np.float32), y.astype(np.float32)
    return np.stack([cv2.remap(frame, *maps, cv2.INTER_LINEAR) for frame in frames])


def tone(rate: int = RATE) -> np.ndarray:
    time = np.arange(round(NUM_FRAMES / 25 * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)


def write_mp4(path: Path, frames=None, audio=None, fps: int = 25, rate: int = RATE) -> None:
    """H.264 and AAC, or one of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = None if frames is None else np.arange(len(frames)) / fps
    write(path, frames, None if audio is None else audio[None], rate=rate, times=times)


def write_claiming(path: Path, audio: np.ndarray) -> None:
    """A wav file whose header claims a megabyte of sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, RATE, subtype="PCM_16")
    whole = bytearray(path.read_bytes())
    place = whole.index(b"data") + 4
    whole[place : place + 4] = (1_000_000).to_bytes(4, "little")
    path.write_bytes(whole)


def write_recordings(root: Path) -> None:
    """VoxCeleb2 with one recording of each kind."""
    dev, face = root / "dev/mp4/id00001", draw(3)
    grey = np.full_like(face, 128)
    write_mp4(root / f"dev/mp4/{GOOD}.mp4", face, tone())
    write_mp4(root / "test/mp4/id00002/good/00001.mp4", draw(5), tone())
    write_mp4(dev / "48 kHz/00001.mp4", face, tone(48_000), rate=48_000)
    write_mp4(dev / "Zürich.tv – 1/00.2.b.mp4", face, tone())
    write_mp4(dev / "two faces/00001.mp4", np.concatenate([face, draw(5, talk=0.0)], 2), tone())
    whole = (root / f"dev/mp4/{GOOD}.mp4").read_bytes()
    for name, content in (
        ("truncated", whole[: len(whole) // 2]),
        ("empty", b""),
        ("text", b"hello" * 1000),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
    ):
        (dev / name).mkdir()
        (dev / name / "00001.mp4").write_bytes(content)
    write_mp4(dev / "no sound/00001.mp4", face)
    write_mp4(dev / "no picture/00001.mp4", None, tone())
    write_mp4(dev / "30 fps/00001.mp4", face, tone(), fps=30)
    write_mp4(dev / "no face/00001.mp4", grey, tone())
    write_mp4(dev / "profile/00001.mp4", turned(face), tone())
    write_mp4(dev / "bad wav/00001.mp4", face)
    write_claiming(root / "dev/wav/id00001/bad wav/00001.wav", tone())


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Root of the recordings, and manifests and storage of the shards made of them."""
    root = tmp_path_factory.mktemp("recordings")
    write_recordings(root)
    clips = list(voxceleb2.scan(root, 0.0))
    encoder = Eigenlips.fit([read_mouth(clip_of(root, "good"), CONFIG).crops], 4)
    results = []
    for split in ("train", "test"):
        own = [clip for clip in clips if clip.split == split]
        results.append(write_shard(own, f"{split}-000000", root, CONFIG, encoder))
    (out := root / "out").mkdir()
    write_manifests(results, out)
    return root, out, root


@pytest.mark.parametrize("kind", REJECTED)
def test_what_cannot_be_used_is_one_reject(built, kind):
    rejects = pandas.read_parquet(built[1] / "rejects.parquet")
    rows = rejects[rejects.path.str.contains(f"/{kind}/", regex=False)]
    assert len(rows) == 1
    reason = rows.reason.iloc[0]
    assert re.search(REJECTED[kind], reason), reason
    assert f"id00001/{kind}/00001" in reason and "\n" not in reason
    assert str(built[0]) not in reason  # the same wherever the corpus lies


def test_nothing_is_left_out_silently_and_what_is_kept_is_whole(built):
    _, out, storage = built
    rejects = pandas.read_parquet(out / "rejects.parquet")
    train = ShardReader(out, storage, "train")
    assert len(rejects) == len(REJECTED)
    assert {source[len("dev/mp4/") : -len(".mp4")] for source in train.clips.source} == KEPT
    assert validate(out, storage) == []
    faces = pandas.read_parquet(out / "train.clips.parquet").set_index("source").faces
    assert faces["dev/mp4/id00001/two faces/00001.mp4"] == 2
    for clip in train:
        assert (len(clip.lips), len(clip.audio)) == (NUM_FRAMES, NUM_FRAMES * 320)
        spectrum = np.abs(np.fft.rfft(clip.audio))
        peak = np.fft.rfftfreq(len(clip.audio), 1 / 8000)[spectrum.argmax()]
        assert abs(peak - 300) < 2, clip.key  # 48 kHz did not become another pitch


def clip_of(root: Path, kind: str) -> RawClip:
    return next(clip for clip in voxceleb2.scan(root, 0.0) if f"/{kind}/" in clip.source)


def test_of_two_faces_the_talking_one_is_taken(built):
    alone = read_recording(clip_of(built[0], "good"), CONFIG, True).mouth
    both = read_recording(clip_of(built[0], "two faces"), CONFIG, True).mouth
    assert np.abs(alone.astype(float) - both).mean() < 8


def test_another_frame_rate_is_taken_where_wanted(built):
    config = replace(CONFIG, resample_video=True, min_seconds=0.5)
    recording = read_recording(clip_of(built[0], "30 fps"), config, True)
    assert len(recording.mouth) == NUM_FRAMES * 25 // 30
    assert recording.facts == {"source_fps": 30.0}


def write_noise(path: Path, channels: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = 0.1 * np.random.default_rng(len(path.name)).standard_normal((RATE, channels))
    soundfile.write(path, audio, RATE)


@pytest.fixture
def noises(tmp_path) -> Path:
    for split in ("tr", "cv", "tt"):
        write_noise(tmp_path / f"wham_noise/{split}/{split}.wav")
    return tmp_path


def refused(root: Path) -> str:
    with pytest.raises(DavssError) as caught:
        build_shards("wham", wham.scan(root), CONFIG, root / "out", root / "storage")
    assert "\n" not in str(caught.value) and not (root / "out").exists()
    return str(caught.value)


def test_mono_wham_is_refused(noises):
    write_noise(noises / "wham_noise/tr/mono.wav", channels=1)
    assert "tr/mono.wav: 1 channel(s), WHAM! noise is stereo" in refused(noises)


def test_names_that_become_one_key_are_refused(noises):
    write_noise(noises / "wham_noise/tr/more/tr.wav")
    assert refused(noises) == (
        "wham_noise/tr/tr.wav: has the same key as wham_noise/tr/more/tr.wav; rename one"
    )


@pytest.mark.parametrize("folder", ["", "wham_noise", "wham_noise/tr", "wham_noise/tt"])
def test_a_directory_that_may_not_be_read(noises, monkeypatch, folder):
    locked = str(noises / folder)
    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, _locking(getattr(os, name), locked))
    said = refused(noises)
    assert said.startswith(f"{locked}: cannot be listed (Permission denied); fix its perm")


def _locking(function, locked: str):
    def call(path="."):
        if os.fspath(path) == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), locked)
        return function(path)

    return call


def test_a_folder_that_links_into_itself_is_refused(noises):
    (noises / "wham_noise/tr/again").symlink_to(noises / "wham_noise/tr")
    assert "again: cannot be listed (Too many levels of symbolic links)" in refused(noises)


def test_a_file_that_may_not_be_read(noises, monkeypatch):
    path = noises / "wham_noise/tr/tr.wav"
    monkeypatch.setattr("builtins.open", _denied)
    with pytest.raises(DavssError, match=r"tr.wav: cannot be read \(Permission denied\); fix"):
        require_file(path)


def _denied(path, *_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_a_storage_that_may_not_be_written_to_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("davss.shards.build.ray_running", None)
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    clip = RawClip("a", "train", "", "a.wav", audio=tmp_path / "a.wav")
    with pytest.raises(StorageError, match="/sys/davss.*; correct the path or its permissions"):
        build_shards("x", [clip], CONFIG, tmp_path / "out", "/sys/davss")
