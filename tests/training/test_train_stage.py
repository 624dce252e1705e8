"""The stage as it is run: real processes, real shards, Ray Train."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas
import psutil
import pytest
import torch

from davss.diffusion.prior import COLOURED, load_prior
from davss.errors import DavssError
from davss.training import checkpoint, loop
from davss.training.launch import MAX_FAILURES
from pipelines import train_prior, training_job
from tests.training.conftest import PRIOR, write_corpus, write_params

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pipelines.train_prior"]


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [*COMMAND, *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def newest_samples() -> int:
    """Samples seen of the newest checkpoint, 0 where there is none."""
    saved = Path("storage/training").glob("*/checkpoints/checkpoint-*.pt")
    return max((int(path.name[11:23]) for path in saved), default=0)


def kill_workers_until_the_end(stage: subprocess.Popen, count: int) -> int:
    """Kill -9 all `count` workers whenever they got on; how often, once the stage has ended."""
    kills, before, deadline = 0, 0, time.monotonic() + 900
    while stage.poll() is None:
        if time.monotonic() > deadline:
            stage.kill()
            raise AssertionError(f"still at work after {kills} kills")
        time.sleep(0.02)
        if newest_samples() <= before:
            continue
        found = psutil.Process(stage.pid).children(recursive=True)
        workers = [each for each in found if "RayTrainWorker" in " ".join(each.cmdline())]
        if len(workers) == count:
            for worker in workers:
                worker.kill()
            psutil.wait_procs(workers, timeout=30)
            kills, before = kills + 1, newest_samples()
    return kills


@pytest.mark.slow
def test_two_workers_killed_too_often_then_one_worker_goes_on(project, monkeypatch):
    total = 800
    write_corpus("voxceleb2", True, monkeypatch)
    write_params(project, total_samples=total, validate_every=total // 2, checkpoint_every=8)
    stage = start("speech", DAVSS_NUM_WORKERS="2")
    assert kill_workers_until_the_end(stage, 2) == MAX_FAILURES + 1
    _, errors = stage.communicate()
    assert stage.returncode == 2, errors
    last, seen = errors.splitlines()[-1], newest_samples()
    assert last.startswith("error: training of speech: workers died") and "Traceback" not in errors
    assert 0 < seen < total and f"go on from checkpoint-{seen:012d}" in last
    assert not Path("data/priors/speech").exists()

    stage = start("speech", DAVSS_NUM_WORKERS="1")
    _, errors = stage.communicate(timeout=600)
    assert stage.returncode == 0, errors
    assert f"speech goes on from {seen} samples" in errors
    assert f"speech {total}/{total} samples" in errors
    check_outputs(total)
    (priors := Path("data/priors/speech")).rename("elsewhere")
    train_prior.main(["speech"])  # a finished run is only exported again
    assert load_prior(priors).visual_encoder.dim == 6


def check_outputs(total: int) -> None:
    prior = load_prior("data/priors/speech")
    assert prior.sample_rate == 8000 and prior.visual_encoder.dim == 6
    assert prior.info.training["samples_seen"] == total
    metrics = json.loads(Path("data/training/speech/metrics.json").read_text())
    assert metrics["samples_seen"] == total and 0 < metrics["valid_loss"] < 2
    history = pandas.read_csv("data/training/speech/history.csv")
    assert history.samples_seen.tolist() == [total // 2, total]
    wanted = {"train_loss", "grad_norm", "learning_rate", "valid_loss", "valid_loss_sigma_0.063"}
    assert wanted <= set(history.columns)


def test_sounds_of_the_other_kind(project, monkeypatch):
    """A noise prior that hears voices beside its own sounds, and coloured noise."""
    write_corpus("wham", False, monkeypatch)
    write_corpus("speech", False, monkeypatch)
    foreign = {"corpus": "speech", "negatives": 0.2, "splices": 0.2, "coloured": 0.6}
    params = write_params(project, foreign=foreign)
    with pytest.raises(DavssError, match=r"^noise_prior.training.foreign.coloured: needs network"):
        training_job.make_job("wham", params, "disabled")
    network = {**PRIOR["network"], "spectral": True, "coloured": True}
    monkeypatch.setitem(PRIOR, "network", network)
    with pytest.raises(DavssError, match=r"^training.foreign.corpus: name the corpus"):
        training_job.make_job(
            "wham", write_params(project, foreign={**foreign, "corpus": None}), "disabled"
        )
    job = training_job.make_job("wham", write_params(project, foreign=foreign), "disabled")
    assert loop.train(job)
    train_prior.export(job, checkpoint.load_newest(job.checkpoints))
    prior = load_prior("data/priors/wham")
    assert prior.info.training[COLOURED] and prior.network.coloured
    train_prior.main(["wham", "--export", "now"])
    same = load_prior("now")
    assert same.info == prior.info
    assert all(map(torch.equal, same.state_dict().values(), prior.state_dict().values()))
    with pytest.raises(DavssError, match=r"^--samples 5: not among .* after .*32 clips"):
        train_prior.main(["wham", "--export", "then", "--samples", "5"])
    with pytest.raises(DavssError, match=r"^--samples: goes with --export"):
        train_prior.main(["wham", "--samples", "5"])
    with pytest.raises(DavssError, match=r"^--export now: exists already"):
        train_prior.main(["wham", "--export", "now"])
    shutil.rmtree(job.state)
    with pytest.raises(DavssError, match=r"checkpoints: no checkpoint; train wham"):
        train_prior.main(["wham", "--export", "then"])
    assert not Path("then").exists()
    history = pandas.read_csv("data/training/wham/history.csv")
    assert (history.train_loss < 10).all()


def test_a_workers_error_is_one_line(project, monkeypatch):
    write_corpus("wham", False, monkeypatch)
    for shard in Path("storage/shards/wham").glob("train-*.tar"):
        shard.write_bytes(b"x" * shard.stat().st_size)  # the size still fits the manifest
    stage = start("wham")
    _, errors = stage.communicate(timeout=240)
    assert stage.returncode == 2
    assert errors.splitlines()[-1].startswith("error: ") and "not a readable shard" in errors
    assert "Traceback" not in errors


def test_dry_run(project, monkeypatch, capsys):
    write_corpus("wham", False, monkeypatch)
    monkeypatch.setenv("DAVSS_NUM_WORKERS", "1")
    train_prior.main(["wham", "--dry-run"])
    shown = capsys.readouterr().out
    assert "global batch:  4 clips" in shown and "steps:         8 (32 samples)" in shown
    assert str(project / "storage/training/wham-") in shown


def test_dry_run_of_the_papers_prior_without_corpora(project, capsys):
    train_prior.main(["speech", "--dry-run", "--profile", "paper", "--gpus", "8"])
    shown = capsys.readouterr().out
    assert "workers:       8 on GPU, at most 2 clips each, 2 at a time" in shown
    assert "steps:         200,000 (3,200,000 samples)" in shown
    assert "× 3 × 1.12 TFLOP of a forward" in shown and "assumed" in shown
    assert "state:         none yet: data/shards/voxceleb2/train.parquet: no such manifest" in shown
    for flags, message in (
        (["--dry-run", "--gpus", "0"], "--gpus 0"),
        (["--dry-run", "--gpu-tflops", "-1"], "--gpu-tflops -1"),
        (["--profile", "paper"], "for --dry-run only"),
    ):
        with pytest.raises(DavssError, match=message):
            train_prior.main(["speech", *flags])


def test_missing_manifests_name_their_stage(project):
    with pytest.raises(DavssError, match=r"pipelines\.shards wham"):
        train_prior.main(["wham"])


def test_too_many_and_bad_number_of_workers(project, monkeypatch):
    write_corpus("wham", False, monkeypatch)
    monkeypatch.setenv("DAVSS_NUM_WORKERS", "5")
    with pytest.raises(DavssError, match="less than one clip for each of 5 workers"):
        train_prior.main(["wham"])
    monkeypatch.setenv("DAVSS_NUM_WORKERS", "two")
    with pytest.raises(DavssError, match="DAVSS_NUM_WORKERS=two"):
        train_prior.main(["wham"])


def test_features_of_another_encoder(project, monkeypatch):
    write_corpus("voxceleb2", True, monkeypatch)
    from davss.networks.eigenlips import Eigenlips
    from tests.training.conftest import mouth

    other = Eigenlips.fit([mouth(n) for n in range(4)], 5)
    other.save(Path("data/shards/voxceleb2/eigenlips.safetensors"))
    with pytest.raises(DavssError, match="gives 10 features a frame but the shards hold 6"):
        train_prior.main(["speech"])


def test_unknown_key(project, monkeypatch):
    write_corpus("wham", False, monkeypatch)
    write_params(project, learning_rat=1.0)
    with pytest.raises(DavssError, match=r"noise_prior\.training\.learning_rat"):
        train_prior.main(["wham"])


def run_here(name: str, params: Path):
    """The stage without Ray: one worker, in this process."""
    job = training_job.make_job(name, params, "disabled")
    loop.train(job)
    train_prior.export(job, checkpoint.load_newest(job.checkpoints))
    return job


def test_separations_on_the_way_and_warm_starts(project, monkeypatch):
    write_corpus("voxceleb2", True, monkeypatch)
    write_corpus("wham", False, monkeypatch)
    small = {"total_samples": 16, "validate_every": 8, "separate_every": 16}
    small |= {"validation_mixtures": 2, "validation_sampler_steps": 2}
    speech = run_here("speech", write_params(project, **small))
    history = pandas.read_csv("data/training/speech/history.csv")
    assert history.samples_seen.tolist() == [8, 16]
    assert history.valid_si_sdr_improvement.notna().tolist() == [False, True]
    assert {"valid_gain", "valid_gain_sigma_0.063", "valid_sample_level"} <= set(history.columns)

    noise = run_here("wham", write_params(project, **small))
    assert "separates nothing: no training.validation_speech_prior" in noise.log_file.read_text()
    given = write_params(project, **small, validation_speech_prior="data/priors/speech")
    monkeypatch.setenv("DAVSS_STORAGE", str(project / "elsewhere"))
    shutil.copytree("storage/shards", "elsewhere/shards")
    again = run_here("wham", given)
    assert again.tracking.run_id == noise.tracking.run_id  # it changes no weight
    metrics = json.loads(Path("data/training/wham/metrics.json").read_text())
    assert math.isfinite(metrics["valid_si_sdr_improvement"])

    warm = write_params(project, **small, init_from="data/priors/speech")
    monkeypatch.delenv("DAVSS_STORAGE")
    job = training_job.make_job("speech", warm, "disabled")
    assert job.tracking.run_id != speech.tracking.run_id
    source = load_prior("data/priors/speech").network.state_dict()
    for weight, value in job.build_prior().network.state_dict().items():
        assert torch.equal(value, source[weight]), weight
    trained = run_here("speech", warm)
    lineage = load_prior("data/priors/speech").info.training
    assert lineage["init_from"] == job.tracking.settings["init_from"]
    assert trained.tracking.run_id == job.tracking.run_id
