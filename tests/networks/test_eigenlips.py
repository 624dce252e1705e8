"""Eigenlips on moving synthetic mouths: what they keep, what they ignore, what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from davss.errors import DavssError
from davss.networks.eigenlips import Eigenlips


def mouth(seed: int, num_frames: int = 80, light: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Crops (V, 96, 96) of a dark ellipse that opens and widens, and its opening (V,)."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_frames) / 25
    opening = 12 + 8 * np.sin(2 * np.pi * rng.uniform(1, 3) * time + rng.uniform(0, 6))
    width = 26 + 6 * np.sin(2 * np.pi * rng.uniform(1, 3) * time + rng.uniform(0, 6))
    y, x = np.mgrid[-48:48, -48:48]
    distance = (x / width[:, None, None]) ** 2 + (y / opening[:, None, None]) ** 2
    skin = 150 * light / (1 + np.exp(-8 * (distance - 1))) + 40 * light
    noise = rng.normal(0, 2, skin.shape)
    return (skin + noise).clip(0, 255).astype(np.uint8), opening


@pytest.fixture(scope="module")
def encoder() -> Eigenlips:
    return Eigenlips.fit((mouth(seed)[0] for seed in range(12)), 8)


def test_features_have_unit_variance_on_the_training_split(encoder):
    features = np.concatenate([encoder(mouth(seed)[0]) for seed in range(12)])
    assert features.dtype == np.float32
    assert features.shape == (12 * 80, encoder.dim) == (960, 16)
    np.testing.assert_allclose(features.std(axis=0), 1, rtol=0.05)


def test_the_opening_of_an_unseen_mouth_can_be_read_off(encoder):
    train = [mouth(seed) for seed in range(12)]
    inputs = np.concatenate([encoder(crops)[:, :8] for crops, _ in train])
    target = np.concatenate([opening - opening.mean() for _, opening in train])
    weights = np.linalg.lstsq(inputs, target, rcond=None)[0]
    crops, opening = mouth(99)
    predicted = encoder(crops)[:, :8] @ weights
    assert np.corrcoef(predicted, opening)[0, 1] > 0.95


def test_light_matters_little(encoder):
    bright, dim = (encoder(mouth(70, light=light)[0]) for light in (1.0, 0.6))
    for component in range(3):
        assert np.corrcoef(bright[:, component], dim[:, component])[0, 1] > 0.95
    np.testing.assert_allclose(bright[:, :3].std(), dim[:, :3].std(), rtol=0.15)


def test_fit_is_deterministic_and_survives_a_file(encoder, tmp_path):
    again = Eigenlips.fit((mouth(seed)[0] for seed in range(12)), 8)
    assert np.array_equal(again.basis, encoder.basis)
    path = tmp_path / "folder" / "eigenlips.safetensors"
    encoder.save(path)
    crops = mouth(3)[0]
    assert np.array_equal(Eigenlips.load(path)(crops), encoder(crops))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_refusals(encoder, tmp_path):
    with pytest.raises(DavssError, match="do not span 8 components; lower shards.num_components"):
        Eigenlips.fit([mouth(0, num_frames=4)[0]], 8)
    with pytest.raises(DavssError, match="0 frames do not span"):
        Eigenlips.fit([], 8)
    with pytest.raises(DavssError, match=r"\(5, 88, 88\); expected \(V, 96, 96\)"):
        encoder(np.zeros((5, 88, 88), np.uint8))
    with pytest.raises(DavssError, match="no eigenlips file"):
        Eigenlips.load(tmp_path / "absent.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(DavssError, match="not an eigenlips file"):
        Eigenlips.load(tmp_path / "x.safetensors")
