"""The shard contract: keys, members, and what is refused."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import webdataset

from davss.errors import DavssError
from davss.shards import contract
from davss.shards.contract import AUDIO, LIPS, META, decode, encode, frames_of, make_key

META_IN = {"split": "train", "speaker": "id1", "source": "a/b.mp4", "sample_rate": 8000}


@pytest.fixture
def members() -> dict:
    rng = np.random.default_rng(0)
    return encode("k-1", rng.uniform(-0.5, 0.5, 3200), rng.standard_normal((10, 4)), META_IN)


def test_round_trip(members):
    rng = np.random.default_rng(0)
    clip = decode(members)
    np.testing.assert_allclose(clip.audio, rng.uniform(-0.5, 0.5, 3200), atol=1 / 32768)
    np.testing.assert_allclose(clip.lips, rng.standard_normal((10, 4)), rtol=1e-3)
    assert clip.audio.dtype == clip.lips.dtype == np.float32
    assert (clip.meta["num_frames"], clip.meta["num_samples"]) == (10, 3200)


def test_keys_are_plain_and_distinct():
    assert make_key("dev/id10001/grid/00001.mp4") == "dev-id10001-grid-00001"
    names = ["dev/id1/Ab_c/1.mp4", "dev/id1/aB_c/1.mp4", "a.b.wav", "a_b.wav", "x" * 300 + ".wav"]
    keys = [make_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(contract.check_key(key) for key in keys)
    assert max(map(len, keys)) + len(".audio.flac") < 100


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "Ä", "A"])
def test_bad_keys_are_refused(key, members):
    with pytest.raises(DavssError, match="not a shard key"):
        encode(key, np.ones(3200), None, META_IN)
    with pytest.raises(DavssError, match="not a shard key"):
        decode(members | {"__key__": key})


def _npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("member", "data", "message"),
    [
        (LIPS, _npy(np.array([{"a": 1}], dtype=object)), "plain array"),
        (LIPS, b"\x80\x04N.", "plain array"),
        (LIPS, _npy(np.zeros((10, 4), np.float64)), "expected float16"),
        (LIPS, _npy(np.zeros((9, 4), np.float16)), "9 lip frames"),
        (AUDIO, b"fLaC", "cannot be decoded"),
        (META, b"{", "not JSON"),
        (META, b"{}", "lacks"),
    ],
)
def test_bad_members_are_refused(members, member, data, message):
    with pytest.raises(DavssError, match=f"k-1: .*{message}"):
        decode(members | {member: data})


def test_other_schema_versions_are_refused(members):
    meta = json.loads(members[META]) | {"schema_version": 2}
    with pytest.raises(DavssError, match="contract v2"):
        decode(members | {META: json.dumps(meta).encode()})


def test_missing_member_is_named(members):
    del members[AUDIO]
    with pytest.raises(DavssError, match=r"k-1: member audio.flac is missing"):
        decode(members)


def test_lips_must_cover_the_audio():
    with pytest.raises(DavssError, match="10 lip frames cover 3200 samples"):
        encode("k", np.ones(3201), np.ones((10, 4)), META_IN)


def test_frames():
    assert [frames_of(samples, 8000) for samples in (320, 321, 16000)] == [1, 2, 50]
    with pytest.raises(DavssError, match="multiple of 25"):
        frames_of(1, 11_035 + 3)


def test_plain_webdataset_reads_a_shard(corpus):
    """Without davss' code: standard webdataset, its own decoders, no pickles."""
    shard = next((corpus.storage / "shards/x").glob("train-000000-*.tar"))
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode("torch"))
    assert [one["__key__"] for one in samples] == [f"train-{index:03d}" for index in range(4)]
    assert samples[0][LIPS].shape == (60, 6)
    assert samples[0][META]["speaker"] == "id0"
    assert {name.split(".")[-1] for one in samples for name in one if "__" not in name} == {
        "flac",
        "npy",
        "json",
    }
