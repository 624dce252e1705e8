"""BRAVEn from a public-style checkpoint to separated files: shards, prior, `davss separate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import ray
import yaml

from davss.cli import build_parser
from davss.cli.application import separate_file
from davss.config import ShardsConfig
from davss.corpora import RawClip, voxceleb2
from davss.diffusion.prior import SpeechPrior, load_prior, save_prior
from davss.errors import DavssError
from davss.media.audio import read_audio
from davss.networks.visual import BravenLips, load_visual_encoder, save_visual_encoder
from davss.shards.build import build_shards
from davss.shards.manifests import write_manifests
from davss.shards.reader import ShardReader
from davss.shards.sample import read_mouth
from davss.shards.validate import validate
from pipelines.compose import compose
from pipelines.demo_corpus import main as write_demo_corpus
from pipelines.shards import main as shards_stage
from tests.networks.braven_small import write_checkpoint
from tests.priors import INFO, make_noise_prior
from tests.shards.conftest import write_shard

DEMO = {
    "dev_speakers": ["en_allison_f"],
    "test_speakers": ["it_carlo_m"],
    "dev_speeds": [1.0],
    "clips_per_speaker": 2,
    "test_clips_per_speaker": 1,
    "wham_scenes": ["city"],
    "dns_scenes": ["train"],
}
CONFIG = {"sample_rate": 8000, "min_seconds": 1.0, "visual_encoder": "braven"}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Three talking faces and a checkpoint."""
    folder = tmp_path_factory.mktemp("braven")
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump({"demo": DEMO}))
    write_demo_corpus(["--params", str(params), "--out", str(folder / "demo"), "--workers", "1"])
    write_checkpoint(folder / "braven.pth")
    return folder


def config(work: Path, **changes) -> ShardsConfig:
    return ShardsConfig(**{**CONFIG, "braven_checkpoint": str(work / "braven.pth"), **changes})


def clips(work: Path) -> list[RawClip]:
    return list(voxceleb2.scan(work / "demo/voxceleb2", 0.0))


def build(work: Path, name: str):
    out, storage = work / name, work / f"{name}-storage"
    build_shards("voxceleb2", clips(work), config(work), out, storage)
    return out, storage


@pytest.fixture(scope="module")
def shards(work):
    """Manifests and storage of what the writer makes of them, without Ray."""
    out, storage, encoder = work / "shards", work / "st", BravenLips.of(work / "braven.pth")
    results = []
    for split in ("train", "test"):
        own = [clip for clip in clips(work) if clip.split == split]
        results.append(write_shard(own, f"{split}-000000", storage, config(work), encoder))
    save_visual_encoder(encoder, out)
    write_manifests(results, out)
    return out, storage


def test_shards_hold_features_of_the_checkpoint(work, shards):
    assert validate(*shards) == []
    encoder = load_visual_encoder(shards[0])
    assert isinstance(encoder, BravenLips) and encoder.dim == 64
    reader = ShardReader(*shards, "test")
    (clip,) = list(reader)
    raw = next(one for one in clips(work) if one.split == "test")
    expected = encoder.at(work / "braven.pth")(read_mouth(raw, config(work)).crops)
    np.testing.assert_allclose(clip.lips, expected[: len(clip.lips)], atol=2e-3)
    assert clip.lips.std() > 0.1


@pytest.mark.slow
def test_an_actor_on_a_gpu_writes_the_same(work):
    first = build(work, "first")
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False)  # Ray only counts it
    try:
        again = build(work, "again")
    finally:
        ray.shutdown()
    for split in ("train", "test"):
        one, other = (pandas.read_parquet(out / f"{split}.parquet") for out, _ in (first, again))
        assert list(one.sha256) == list(other.sha256)


@pytest.mark.slow
def test_a_checkpoint_that_moves_changes_nothing(work):
    _, storage = build(work, "still")
    moved = (work / "braven.pth").replace(work / "moved.pth")
    before = {path: path.stat().st_mtime_ns for path in storage.rglob("*.tar")}
    settings = config(work, braven_checkpoint=str(moved))
    build_shards("voxceleb2", clips(work), settings, work / "x", storage)
    moved.replace(work / "braven.pth")
    assert {path: path.stat().st_mtime_ns for path in storage.rglob("*.tar")} == before


@pytest.fixture(scope="module")
def priors(work, shards) -> Path:
    save_prior(SpeechPrior(INFO, load_visual_encoder(shards[0])), work / "speech")
    save_prior(make_noise_prior(), work / "noise")
    return work


def separate(priors: Path, *more: str):
    recording = next((priors / "demo/voxceleb2/test/mp4").glob("*/*/*.mp4"))
    places = f"--speech-prior {priors}/speech --noise-prior {priors}/noise --out {priors}/out"
    steps = "--num-steps 1 --num-samples 1 --device cpu"
    flags = ["separate", str(recording), *places.split(), *steps.split(), *more]
    given = build_parser().parse_args(flags)
    return separate_file(recording, given.out, given), recording


def test_separate_with_the_checkpoint(priors, work):
    names = {path.name for path in (priors / "speech").iterdir()}
    assert names == {"weights.safetensors", "config.json", "braven.json"}
    described = json.loads((priors / "speech/braven.json").read_text())
    assert described["kind"] == "braven" and len(described["sha256"]) == 64
    assert load_prior(priors / "speech").visual_encoder.dim == 64
    report, recording = separate(priors, "--visual-encoder", f"{work}/braven.pth")
    assert report["files"] == ["speaker_1.wav", "noise.wav"]
    assert len(read_audio(priors / "out/speaker_1.wav")[0]) == len(read_audio(recording)[0])


def test_separate_without_it_names_the_mend(priors, work):
    with pytest.raises(DavssError, match=r"--visual-encoder: .* of BRAVEn; give its checkpoint"):
        separate(priors)
    (work / "other.pth").write_bytes(b"other")
    with pytest.raises(DavssError, match=r"other.pth: sha256 .*; give that one"):
        separate(priors, "--visual-encoder", f"{work}/other.pth")
    report, _ = separate(priors, "--speakers", "1")  # nobody's lips are looked at
    assert len(report["files"]) == 2


def test_the_paper_profile_wants_a_checkpoint_first_of_all(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text(compose("paper"))
    with pytest.raises(DavssError, match=r"^shards.braven_checkpoint: BRAVEn needs its checkpoint"):
        shards_stage(["voxceleb2", "--params", str(params)])


def test_settings_without_a_checkpoint_stop_at_once(work, tmp_path):
    for changes, message in (
        ({"braven_checkpoint": None}, r"shards.braven_checkpoint: BRAVEn needs its checkpoint"),
        ({"braven_checkpoint": "/nowhere.pth"}, r"/nowhere.pth: no such file"),
    ):
        with pytest.raises(DavssError, match=message):
            build_shards("voxceleb2", clips(work), config(work, **changes), tmp_path, tmp_path)
