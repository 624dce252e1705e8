"""BRAVEn as a visual encoder: its checkpoint by sha256, batches, and folders that name it."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from davss.errors import DavssError
from davss.networks import visual
from davss.networks.braven import BRAVEn
from davss.networks.visual import BravenLips, groups, load_visual_encoder, save_visual_encoder
from tests.networks.braven_small import public_weights, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "braven.pth")


def crops(seed: int, num_frames: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 96, 96), dtype=np.uint8)


def test_sizes_come_from_the_checkpoint(checkpoint):
    encoder = BravenLips.of(checkpoint)
    sizes = (encoder.attention_dim, encoder.attention_heads, encoder.linear_units)
    assert (*sizes, encoder.num_blocks, encoder.dim) == (64, 4, 128, 2, 64)


def test_batches_of_different_lengths_equal_single_clips(checkpoint, monkeypatch):
    monkeypatch.setattr(visual, "BATCH_SCORES", 400)
    encoder = pickle.loads(pickle.dumps(BravenLips.of(checkpoint)))
    clips = [crops(seed, length) for seed, length in enumerate((3, 12, 7, 1, 30, 9))]
    assert len(list(groups([len(clip) for clip in clips]))) > 2
    network = BRAVEn(64, 4, 128, 2).load_public(public_weights())
    for clip, features in zip(clips, encoder.batch(clips), strict=True):
        assert features.dtype == np.float32
        assert (features == features.astype(np.float16)).all()
        np.testing.assert_allclose(features, network.encode(clip), atol=2e-3)
        np.testing.assert_allclose(features, encoder(clip), atol=2e-3)


def test_groups_hold_every_clip_once_and_long_ones_alone():
    lengths = [3600, 100, 100, 5, 2000]
    found = list(groups(lengths))
    assert sorted(index for group in found for index in group) == list(range(5))
    assert found == [[0], [4, 1], [2, 3]]
    assert list(groups([])) == []


def test_folders_name_the_encoder(checkpoint, tmp_path):
    encoder = BravenLips.of(checkpoint)
    save_visual_encoder(encoder, tmp_path)
    named = load_visual_encoder(tmp_path)
    assert named.checkpoint is None and named.dim == 64 and named.sha256 == encoder.sha256
    assert str(tmp_path) not in (tmp_path / "braven.json").read_text()
    with pytest.raises(DavssError, match=r"sha256 [0-9a-f]{12}…; give that file: --visual-enc"):
        named(crops(0, 3))
    np.testing.assert_array_equal(named.at(checkpoint)(crops(0, 3)), encoder(crops(0, 3)))
    (tmp_path / "braven.json").write_text("{}")
    with pytest.raises(DavssError, match=r"braven.json: does not describe BRAVEn"):
        load_visual_encoder(tmp_path)


def test_another_checkpoint_is_refused(checkpoint, tmp_path):
    encoder = BravenLips.of(checkpoint)
    torch.save({**torch.load(checkpoint), "ctc.more": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(DavssError, match=r"other.pth: sha256 .* give that one"):
        encoder.at(tmp_path / "other.pth")
    with pytest.raises(DavssError, match=r"nowhere.pth: no such checkpoint"):
        encoder.at(tmp_path / "nowhere.pth")
    # A worker of another machine may find another file under the path.
    (tmp_path / "other.pth").replace(checkpoint)
    visual._network.cache_clear()
    with pytest.raises(DavssError, match="give that one"):
        encoder(crops(0, 3))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("was-here",)


def test_files_that_are_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"

    def refused(message: str) -> None:
        with pytest.raises(DavssError, match=message) as caught:
            BravenLips.of(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)

    refused("no such file")
    path.write_bytes(b"")
    refused("an empty file")
    torch.save({"encoder": Malicious()}, path)
    refused("pickled objects")
    assert not (tmp_path / "was-here").exists(), "code of a checkpoint was run"
    torch.save([1, 2], path)
    refused("not a checkpoint of weights alone")
    torch.save({"a": torch.zeros(1)}, path)
    refused("has no layers")
    weights = public_weights()
    del weights["after_norm.bias"]
    torch.save(weights, path)
    refused("'after_norm.bias' is missing")


def test_safetensors_are_read_too(checkpoint, tmp_path):
    path = tmp_path / "braven.safetensors"
    save_file({k: v.float().contiguous() for k, v in public_weights().items()}, path)
    made = [BravenLips.of(one)(crops(0, 4)) for one in (path, checkpoint)]
    np.testing.assert_array_equal(*made)
