"""BRAVEn's visual encoder against the public one, its checkpoints' names and its batches."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from davss.errors import DavssError
from davss.networks import BRAVEn, braven
from tests.networks import braven_small

DATA = Path(__file__).parents[1] / "data"
SMALL = {"attention_dim": 64, "attention_heads": 4, "linear_units": 128, "num_blocks": 2}
STEM = "frontend.frontend3D.0.weight"


@pytest.fixture(scope="module")
def public_weights():
    return braven_small.public_weights()


@pytest.fixture(scope="module")
def small(public_weights):
    return BRAVEn(**SMALL).load_public(public_weights)


@pytest.fixture
def frames():
    return torch.tensor(np.random.RandomState(1).randn(2, 12, 88, 88), dtype=torch.float32)


def crops(seed: int, num_frames: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 96, 96), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_public_implementation(public_weights, frames, dtype):
    network = BRAVEn(**SMALL).to(dtype).load_public(public_weights)
    y = network(frames.to(dtype))
    assert y.dtype == dtype and not y.requires_grad
    error = np.abs(y.numpy() - np.load(DATA / "braven_small.npz")["y"]).max()
    assert error < 1e-5  # features are of size 1, the golden ones float32


def test_names_and_size_of_large():
    with torch.device("meta"):
        large = BRAVEn()
    assert len(large.state_dict()) == 700
    assert round(sum(p.numel() for p in large.parameters()) / 1e6, 2) == 339.28


def fine_tuned(weights, prefix=""):
    """The encoder within a whole model."""
    rest = {f"{prefix}{name}": torch.zeros(3) for name in ("decoder.embed.0.weight", "ctc.bias")}
    return {**{f"{prefix}encoder.{name}": value for name, value in weights.items()}, **rest}


def legacy(weights):
    """The names before ESPnet renamed two modules."""
    old = {"embed.": "input_layer.", "after_norm.": "norm."}

    def renamed(name: str) -> str:
        return next((b + name.removeprefix(a) for a, b in old.items() if name.startswith(a)), name)

    return {renamed(name): value for name, value in weights.items()}


@pytest.mark.parametrize(
    "public",
    [
        lambda weights: {f"encoder.{name}": value for name, value in weights.items()},
        lambda weights: {**weights, "decoder.after_norm.bias": torch.zeros(1), "ctc.x": None},
        fine_tuned,
        lambda weights: fine_tuned(weights, "module.model."),
        lambda weights: {f"model.{name}": value for name, value in weights.items()},
        legacy,
        lambda weights: fine_tuned(legacy(weights), "model."),
        lambda weights: {name: weights[name] for name in reversed(weights)},
    ],
    ids=["prefix", "bare", "fine-tuned", "nested", "wrapped", "legacy", "all", "order"],
)
def test_load_public_knows_the_names_in_the_wild(public_weights, small, public):
    loaded = BRAVEn(**SMALL).load_public(public(public_weights)).state_dict()
    for name, value in small.state_dict().items():
        assert torch.equal(loaded[name], value), name


def test_load_public_names_what_does_not_fit(public_weights):
    network = BRAVEn(**SMALL)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def refused(message: str, weights) -> None:
        with pytest.raises(DavssError, match=message):
            network.load_public(weights)

    for name in ("after_norm.bias", STEM, "encoders.1.norm_ff.running_var"):
        rest = {k: v for k, v in public_weights.items() if k != name}
        refused(f"'{name}' is missing", rest)
        refused(f"'{name}' is missing", fine_tuned(rest))
    refused("unknown parameter 'score'", {**public_weights, "score": torch.zeros(1)})
    refused("unknown parameter 'head.a'", {**fine_tuned(public_weights), "head.a": torch.zeros(1)})
    refused("unknown parameter 'decoders.a'", {**public_weights, "decoders.a": torch.zeros(1)})
    student = {f"student.{k}": v for k, v in public_weights.items()}
    refused("unknown parameter 'frontend.trunk", {**student, **public_weights})
    refused("'state_dict'", {"state_dict": public_weights, "epoch": 3})
    refused("'frontend.* is missing", {})
    refused("unknown parameter 'input_layer.0", {**public_weights, **legacy(public_weights)})
    half = {k if k.startswith("embed.") else f"encoder.{k}": v for k, v in public_weights.items()}
    refused("unknown parameter 'embed.0.weight'", half)
    misshapen = {**public_weights, "embed.0.weight": torch.zeros(32, 512)}
    refused(r"'encoder.embed.0.weight' has shape \(32, 512\).* \(64, 512\)", fine_tuned(misshapen))
    with pytest.raises(DavssError, match="unknown parameter 'encoders.1.gamma_ff'"):
        BRAVEn(**{**SMALL, "num_blocks": 1}).load_public(public_weights)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_clips_of_different_length_share_a_batch(small):
    torch.manual_seed(0)
    lengths = torch.tensor([9, 1, 70, 2])  # 70: more than a chunk
    x = torch.randn(4, 71, 88, 88)
    for b, length in enumerate(lengths):
        x[b, length:] = torch.nan  # whatever stands behind a clip's end
    together = small(x, lengths)
    for b, length in enumerate(lengths):
        alone = small(x[b : b + 1, :length])[0]
        torch.testing.assert_close(together[b, :length], alone, rtol=0, atol=1e-5)
        assert (together[b, length:] == 0).all()


def test_chunks_leave_no_seam(small, frames, monkeypatch):
    whole = small(frames)
    for chunk in (1, 5):
        monkeypatch.setattr(braven, "CHUNK", chunk)
        torch.testing.assert_close(small(frames), whole, rtol=0, atol=1e-5)


def test_is_frozen(small, frames):
    around = torch.nn.Sequential(small).train()
    assert not any(module.training for module in small.modules())
    assert not any(p.requires_grad for p in small.parameters())
    statistics = zlib.crc32(small.frontend.frontend3D[1].running_mean.numpy().tobytes())
    around(frames[:, :2])
    assert statistics == zlib.crc32(small.frontend.frontend3D[1].running_mean.numpy().tobytes())


def test_encode_is_the_network_on_preprocessed_crops(small):
    clips = [crops(seed, num_frames) for seed, num_frames in enumerate((5, 12, 3))]
    batch = small.encode_batch(clips)
    for clip, features in zip(clips, batch, strict=True):
        assert features.dtype == np.float16 and features.shape == (len(clip), small.dim)
        assert features.base is None  # holds on to no batch
        expected = small(braven.preprocess(clip)[None])[0].numpy()
        np.testing.assert_allclose(features, expected, atol=2e-3)
        np.testing.assert_allclose(features, small.encode(clip), atol=2e-3)
    assert small.encode_batch([]) == []


def test_refuses_what_is_no_clip(small, frames):
    for bad in (crops(0, 0), crops(0, 2)[:, :88, :88], crops(0, 2).astype(np.float32)):
        with pytest.raises(DavssError, match=r"expected \(V, 96, 96\), uint8"):
            small.encode(bad)
    with pytest.raises(DavssError, match=r"\(2, 12, 80, 88\); expected \(B, V, 88, 88\)"):
        small(frames[:, :, :80])
    for lengths in ([13, 1], [0, 1], [3]):
        with pytest.raises(DavssError, match="from 1 to 12 frames"):
            small(frames, torch.tensor(lengths))
    with pytest.raises(DavssError, match="attention_dim = 10"):
        BRAVEn(attention_dim=10, attention_heads=4)
