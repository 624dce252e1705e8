"""A small finished project up to the trained priors: shards, mixtures, priors that know nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import webdataset
import yaml

from davss.config import DiffusionConfig, NetworkConfig
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior, save_prior
from davss.networks.eigenlips import Eigenlips
from davss.shards.contract import encode
from davss.shards.members import places_of

RATE, FRAMES, COMPONENTS = 8000, 50, 2
PARAMS = {
    "profile": "demo",
    "seed": 0,
    "noise_priors": ["wham"],
    "noise_models": ["wham", "nmf"],
    "conditions": ["wham"],
    "mixtures": {
        "num_speakers": [1, 2],
        "per_num_speakers": 2,
        "seconds": 1.0,
        "sir_db": [0.0],
        "snr_db": [0.0, 10.0],
    },
    "sampler": {"num_steps": 2, "zeta": 0.5, "guidance_weight": 0.0},
    "separation": {"batch_size": 2},
    "report": {"examples_per_condition": 2},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made current, in which the separate stage can run; its storage is storage/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAVSS_STORAGE", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("DAVSS_NUM_ACTORS", "1")  # in this process
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    write_shard("voxceleb2", 4, with_lips=True)
    write_shard("wham", 2, with_lips=False)
    write_priors()
    from pipelines import mixtures

    mixtures.main(["wham"])
    return tmp_path


def write_shard(corpus: str, count: int, with_lips: bool) -> None:
    """A test split of one shard: `count` clips of 2 s by as many speakers."""
    rng = np.random.default_rng(count)
    shard = Path("shards") / corpus / "test-000000.tar"
    manifests = Path("data/shards") / corpus
    for folder in (manifests, (Path("storage") / shard).parent):
        folder.mkdir(parents=True)
    num_samples, rows = FRAMES * RATE // 25, []
    bursts = np.sin(np.arange(num_samples) / 1500) > -0.5 if with_lips else 1.0
    with webdataset.TarWriter(str(Path("storage") / shard), encoder=False, mtime=0) as archive:
        for index in range(count):
            key = f"{corpus}-{index}"
            audio = (0.05 * bursts * rng.standard_normal(num_samples)).clip(-1, 1)
            lips = rng.standard_normal((FRAMES, 2 * COMPONENTS)) if with_lips else None
            meta = {"split": "test", "speaker": f"id{index}", "source": key, "sample_rate": RATE}
            sample = encode(key, audio, lips, meta)
            row = places_of(sample, archive.tarstream.offset)
            archive.write(sample)
            row |= {"key": key, "split": "test", "speaker": f"id{index}", "shard": str(shard)}
            row |= {"num_samples": num_samples, "seconds": 2.0}
            row["num_frames"] = FRAMES if with_lips else 0
            rows.append(row | {"sample_rate": RATE, "source": key, "source_sha256": ""})
    pandas.DataFrame(rows).to_parquet(manifests / "test.clips.parquet")


def write_priors() -> None:
    """Untrained priors of the smallest network."""
    network = NetworkConfig(nf=8, ch_mult=(1, 1), n_fft=126, hop_length=64)
    info = PriorInfo(RATE, network, DiffusionConfig())
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (20, 96, 96), dtype=np.uint8) for _ in range(2)]
    save_prior(SpeechPrior(info, Eigenlips.fit(crops, COMPONENTS)).eval(), "data/priors/speech")
    save_prior(NoisePrior(info).eval(), "data/priors/wham")
