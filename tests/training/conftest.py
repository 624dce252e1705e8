"""A tiny project to train in: params, shards of synthetic clips, their manifests."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.networks.eigenlips import Eigenlips
from davss.shards import sample, writer
from davss.shards.manifests import write_manifests
from davss.storage import LocalStore

RATE, SECONDS = 8000, 1.2

PRIOR = {
    "network": {"nf": 8, "n_fft": 126, "hop_length": 64, "ch_mult": [1, 1]},
    "diffusion": {"sigma_min": 1e-3, "sigma_max": 1.0},
    "training": {
        "crop_seconds": 0.32,
        "global_batch_size": 4,
        "total_samples": 32,
        "learning_rate": 1e-3,
        "warmup_samples": 8,
        "validate_every": 16,
        "validation_clips": 3,
        "checkpoint_every": 8,
        "loader_workers": 0,
        "shuffle_buffer": 4,
    },
}


def write_params(folder: Path, **training) -> Path:
    """params.yaml of the tiny project, with some training settings changed."""
    prior = {**PRIOR, "training": {**PRIOR["training"], **training}}
    params = {"seed": 3, "speech_prior": prior, "noise_prior": prior}
    params["shards"] = {"sample_rate": RATE, "visual_encoder": "eigenlips", "min_seconds": 1.0}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def write_corpus(corpus: str, with_lips: bool, monkeypatch) -> None:
    """Two training shards and one for validation, from tones, made by the real writer."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        sample, "read_mouth", lambda clip, *_: sample.Mouths(mouth(int(clip.key[-2:])))
    )
    encoder = Eigenlips.fit([mouth(n) for n in range(4)], 3) if with_lips else None
    config = ShardsConfig(sample_rate=RATE, min_seconds=1.0)
    manifests, results = Path("data/shards") / corpus, []
    manifests.mkdir(parents=True)
    for number, split in enumerate(("train", "train", "valid")):
        clips = [write_clip(f"{split}{number}-{n:02d}", split, with_lips, rng) for n in range(4)]
        name = f"{split}-{number:06d}"
        piece, store = f"shards/{corpus}/build/{name}/0000", LocalStore(Path("storage"))
        writer.write_piece(clips, piece, store, config, encoder)
        folder = f"shards/{corpus}"
        results.append(writer.assemble([piece], name, folder, f"{folder}/build", store))
    write_manifests(results, manifests)
    if encoder is not None:
        encoder.save(manifests / "eigenlips.safetensors")


def write_clip(key: str, split: str, with_lips: bool, rng: np.random.Generator) -> RawClip:
    """A wav of a tone in noise; its `video` is never opened."""
    path = Path("raw") / f"{key}.wav"
    path.parent.mkdir(exist_ok=True)
    time = np.arange(int(RATE * SECONDS)) / RATE
    audio = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 1000) * time)
    soundfile.write(path, audio + 0.01 * rng.standard_normal(len(time)), RATE)
    return RawClip(
        key=key, split=split, speaker="s", audio=path, video=path if with_lips else None, source=key
    )


def mouth(seed: int) -> np.ndarray:
    """Mouth crops uint8 (V, 96, 96) of a video that lasts SECONDS."""
    coarse = np.random.default_rng(seed).integers(0, 255, (int(25 * SECONDS), 8, 8))
    return np.kron(coarse, np.ones((1, 12, 12))).astype(np.uint8)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The working directory of a tiny project without any corpus; no network, no W&B key."""
    for name in ("DAVSS_STORAGE", "DAVSS_NUM_WORKERS", "WANDB_API_KEY", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    return tmp_path
