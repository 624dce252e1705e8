"""Files that are broken at random are read, or refused in one line: no trace, no wait, no memory.

python -m pytest tests/media/test_fuzz.py -m slow      # 900 files
"""

from __future__ import annotations

import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError
from davss.media.audio import read_audio, read_sound
from davss.shards.sample import read_recording
from tests.media.making import RATE, grays, noise, write

SECONDS, MEMORY = 20.0, 2 << 30
CONFIG = ShardsConfig(sample_rate=8000, min_seconds=0.1, resample_video=True)
EXTREMES = [0, 1, 0x7FFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000, 0xFFFF0000]
KINDS = ["mp4", "fragments", "mkv", "ts", "wav", "flac", "ogg", "w64", "caf"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """A short recording of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    flags = "frag_keyframe+empty_moov+default_base_moof"
    for kind, container, options in (
        ("mp4", "mp4", {"movflags": "faststart"}),
        ("fragments", "mp4", {"movflags": flags}),
        ("mkv", "matroska", {}),
        ("ts", "mpegts", {}),
    ):
        write(folder / kind, grays(12), noise(0.5), container=container, **options)
    for kind in ("wav", "flac", "ogg", "w64", "caf"):
        subtype = "VORBIS" if kind == "ogg" else "PCM_16"
        soundfile.write(folder / kind, noise(0.5, channels=2).T, RATE, subtype, format=kind)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def broken(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with a few bytes changed, a number made extreme, a part cut out, doubled or zeroed."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        # headers matter most
        reach = len(data) if rng.random() < 0.4 else min(len(data), 1500)
        at = int(rng.integers(0, max(1, reach - 8)))
        length = int(rng.integers(1, 200))
        how = rng.integers(0, 6)
        if how == 0:
            data[at] = int(rng.integers(0, 256))
        elif how == 1:
            order = ">I" if rng.random() < 0.5 else "<I"
            data[at : at + 4] = struct.pack(order, int(rng.choice(EXTREMES)))
        elif how == 2:
            del data[at : at + length]
        elif how == 3:
            data[at:at] = data[at : at + length]
        elif how == 4:
            data[at : at + length] = bytes(len(data[at : at + length]))
        else:
            del data[int(rng.integers(len(data) // 3, len(data))) :]
    return bytes(data)


def check(path: Path) -> None:
    """Read as `davss separate` and as the shards stage read."""
    begin = time.perf_counter()
    for read in (
        lambda: read_sound(path).mono(),
        lambda: read_recording(RawClip("k", "train", "id", "x", path, path), CONFIG, True),
    ):
        try:
            read()
        except DavssError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
    assert time.perf_counter() - begin < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files(tmp_path, whole, kind) -> None:
    for seed in range(12):
        (tmp_path / "x").write_bytes(broken(whole[kind], np.random.default_rng(seed)))
        check(tmp_path / "x")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_broken_files(tmp_path, whole, kind) -> None:
    for seed in range(100, 200):
        (tmp_path / "x").write_bytes(broken(whole[kind], np.random.default_rng(seed)))
        check(tmp_path / "x")


quick = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@quick
@given(
    rate=st.integers(4000, 384_000),
    samples=st.integers(1, 3000),
    channels=st.integers(1, 8),
    subtype=st.sampled_from(["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"]),
    to_rate=st.integers(4000, 48_000),
)
def test_any_wav_is_read(tmp_path, rate, samples, channels, subtype, to_rate) -> None:
    sound = noise(samples / rate + 1e-9, rate, channels)
    soundfile.write(tmp_path / "x.wav", sound.T, rate, subtype)
    found = read_sound(tmp_path / "x.wav")
    assert (found.rate, found.samples.shape, found.missing) == (rate, sound.shape, "")
    assert np.abs(found.samples - sound).max() < 0.03
    audio, now = read_audio(tmp_path / "x.wav", to_rate)
    assert now == to_rate and len(audio) == -(-samples * to_rate // rate)


@quick
@given(
    riff=st.integers(0, 0xFFFFFFFF),
    size=st.one_of(st.sampled_from(EXTREMES), st.integers(0, 0xFFFFFFFF)),
    cut=st.integers(0, 2000),
)
def test_any_size_in_a_wav_header(tmp_path, riff, size, cut) -> None:
    """No sound is made up and none is lost without a word, whatever the header says."""
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(0.1)[0], RATE, "PCM_16")
    data = bytearray(path.read_bytes())
    data[4:8], data[40:44] = struct.pack("<I", riff), struct.pack("<I", size)
    path.write_bytes(data[: len(data) - cut])
    there = (1600 * 2 - cut) // 2
    sound = read_sound(path)
    wanted = there if 2 * size < 2 * there or size // 2 > there else size // 2
    assert sound.samples.shape[1] == wanted
    claims_more = size > there * 2 + 1
    placeholder = size == 0 or any(0 <= mark - size <= 4096 for mark in (1 << 31, 1 << 32))
    placeholder |= 0 <= 0x7FFFF000 - size <= 4096
    assert bool(sound.missing) == (claims_more and not placeholder)
