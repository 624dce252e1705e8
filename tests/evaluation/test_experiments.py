"""The experiments, with a separator that says what the lips it sees say: pairing, levels, paired
differences, resumption.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from davss.config import PRESETS, ExperimentConfig, SamplerConfig
from davss.errors import DavssError
from davss.evaluation import findings, trials
from davss.evaluation.experiments import IN_VIEW, OFF_SCREEN, Arm, Material, Voices, plan
from davss.evaluation.figures import draw, markdown
from davss.evaluation.mixtures import render
from davss.evaluation.trials import Job, Worker, batches_of, calls, lips_for, run_trials
from davss.shards.contract import Clip
from tests.evaluation.test_mixtures import RATE, Reader

FRAME = 320
SAMPLER = SamplerConfig(num_steps=3, guidance_weight=0.0)
CONFIG = ExperimentConfig(mixtures=6, seconds=1.0, cost_mixtures=2, speech_corpus="speech")


def make_reader(prefix: str, speakers: list[str], lips: bool, frames: int = 50) -> Reader:
    """Clips whose lips are (number of the clip, number of the frame)."""
    stored = {}
    for index, speaker in enumerate(speakers):
        rng = np.random.default_rng([index, len(prefix)])
        audio = (0.1 * rng.standard_normal(frames * FRAME)).astype(np.float32)
        features = np.stack([np.full(frames, index), np.arange(frames)], axis=1)
        own = features.astype(np.float32) if lips else None
        clip = Clip(f"{prefix}-{index}", audio, RATE, own, {"speaker": speaker})
        stored[clip.key] = clip
    return Reader(stored)


@pytest.fixture(scope="module")
def material() -> Material:
    return Material(
        speech=make_reader("grid", ["man"] * 8 + ["woman"], lips=True),
        others=make_reader("speech", ["a", "a", "b", "c"], lips=False),
        noises={
            "wham": make_reader("wham", ["n"] * 4, False),
            "dns": make_reader("dns", ["n"] * 3, False),
        },
        config=CONFIG,
        seed=0,
    )


@dataclass
class LipReader:
    """Says what the lips it sees say, with a little of the mixture; unseen speakers get shares."""

    arm: Arm
    speech: Reader
    calls: list[list[str]]

    def __call__(self, mixture, *, lips, num_speakers, sample_rate, keys, seed):
        assert sample_rate == RATE and seed == 0
        self.calls.append(keys)
        speech = mixture[:, None].repeat(1, num_speakers, 1) / (num_speakers + 1)
        for b, item in enumerate(lips if lips is not None else ()):
            for k, features in enumerate(item):
                clip = self.speech[f"grid-{int(features[0, 0])}"].audio
                first = int(features[0, 1]) * FRAME
                speech[b, k] += 10 * torch.from_numpy(clip[first : first + mixture.shape[1]])
        noise = mixture - speech.sum(dim=1)
        errors = ["diverged" if key in self.arm.name else None for key in keys]
        for b, error in enumerate(errors):
            if error:
                speech[b] = 0
        return SimpleNamespace(speech=speech, noise=noise, errors=errors, num_evaluations=3)


def make_job(material: Material, seen: list[list[str]]) -> Job:
    make = partial(LipReader, speech=material.speech, calls=seen)
    return Job(make, material.voices, material.noises, seed=0)


def run(planned, material, tmp_path, seen=None, batch_size=4):
    job = make_job(material, [] if seen is None else seen)
    return run_trials(planned, job, lambda arm: tmp_path / arm.name, batch_size, 1)


def test_noise_models_have_exact_levels_and_the_same_clips_at_every_snr(material):
    rows = {t.row["key"]: t.row for t in plan("noise_models", material, SAMPLER)}
    assert len(rows) == 2 * 3 * CONFIG.mixtures
    for row in rows.values():
        mixture = render(row, material.voices, material.noises["wham"])
        level = [np.mean(signal.astype(float) ** 2) for signal in mixture.speech]
        noise = np.mean(mixture.noise.astype(float) ** 2)
        talk = np.mean(mixture.speech.sum(axis=0).astype(float) ** 2)
        assert 10 * np.log10(talk / noise) == pytest.approx(row["snr_db"], abs=1e-4)
        assert level == pytest.approx([level[0]] * len(level), rel=1e-4), "SIR 0 dB"
        twin = rows[row["key"].replace(f"snr{row['snr_db']:g}", "snr5")]
        same = ("speech_keys", "speech_offsets", "noise_key", "noise_offset")
        assert all(row[name] == twin[name] for name in same)
    pools = [row["pool"] for key, row in rows.items() if key.startswith("k1-snr0")]
    assert pools == [[IN_VIEW], [OFF_SCREEN]] * 3, "half and half"
    assert rows["k2-snr0-0000"]["pool"] == [IN_VIEW, OFF_SCREEN]


def test_speakers_in_view_are_the_man_and_all_clips_come_before_one_comes_again(material):
    rows = [t.row for t in plan("noise_models", material, SAMPLER) if t.arm.name == "wham"]
    for row in rows:
        for pool, key in zip(row["pool"], row["speech_keys"], strict=True):
            assert (pool == IN_VIEW) == (key in material.speech)
            assert key != "grid-8", "the woman has fewer clips"
    two = [row for row in rows if row["key"].startswith("k2-snr0")]
    assert len({row["speech_keys"][0] for row in two}) == CONFIG.mixtures
    assert {row["noise_key"] for row in two} == set(material.noises["wham"].stored)


def test_planning_is_deterministic_and_does_not_depend_on_the_number_of_mixtures(material):
    fewer = Material(
        material.speech,
        material.others,
        material.noises,
        ExperimentConfig(**{**vars(CONFIG), "mixtures": 3}),
        material.seed,
    )
    for name in ("noise_models", "lips", "conditions"):
        many = {t.row["key"]: t.row for t in plan(name, material, SAMPLER)}
        few = {t.row["key"]: t.row for t in plan(name, fewer, SAMPLER)}
        assert few.items() <= many.items() and len(few) < len(many)
    other = Material(material.speech, material.others, material.noises, CONFIG, seed=1)
    assert plan("lips", other, SAMPLER)[0].row != plan("lips", material, SAMPLER)[0].row


def test_lips_are_those_of_the_arm(material):
    voices, planned = material.voices, plan("lips", material, SAMPLER)
    assert len({t.arm for t in planned}) == 3 + 2 + 1 + 1
    assert [t.arm.sampler.guidance_weight for t in planned[:: CONFIG.mixtures]] == [
        *(0.0, 0.5, 1.0),
        *(0.0, 0.0, 0.0, 0.0),
    ]
    for trial in planned:
        row, seen = trial.row, lips_for(trial.arm, trial.row, voices)
        own = [int(key.split("-")[1]) for key in row["speech_keys"]]
        wrong = [int(key.split("-")[1]) for key, _ in row["wrong"]]
        assert len({*own, *wrong}) == 4 and max(own + wrong) < 8, "four clips of the man"
        if trial.arm.lips == "none":
            assert seen is None
            continue
        assert seen.shape == (2, 25, 2)
        assert seen[:, 0, 0].tolist() == (wrong if trial.arm.lips == "wrong" else own)
        if trial.arm.lips in ("right", "late"):
            first = np.array(row["speech_offsets"])[:, None] - round(25 * trial.arm.shift)
            frames = np.arange(25) + first
            np.testing.assert_array_equal(seen[:, :, 1], frames.clip(0, 49))
    assert {t.arm.shift for t in planned} == {0.0, 0.2, 0.4}


def test_lips_tell_who_is_who(material, tmp_path):
    planned = plan("lips", material, SAMPLER)
    frame = findings.results_frame(planned, run(planned, material, tmp_path))
    found = findings.lips(frame).set_index("lips")
    right, wrong, none = (found.loc[name] for name in ("right, w 0", "wrong, w 0", "none"))
    assert right.assigned_right == 1 and right.si_sdr > 15 > 0 > wrong.si_sdr
    assert right.assigned_low == pytest.approx(1 / (1 + 1.959964**2 / 6), abs=1e-6), "Wilson"
    assert none.assigned_right == 0, "equal estimates are no right assignment"
    assert wrong.right_minus == pytest.approx(right.si_sdr - wrong.si_sdr)
    assert found.loc["late by 0.2 s, w 0"].si_sdr < 0
    assert math.isnan(right.right_minus) and math.isnan(none.right_minus)


def test_swapped_estimates_are_told(material):
    row = plan("lips", material, SAMPLER)[0].row
    mixture = render(row, material.voices, material.noises["wham"])
    sources = np.stack([mixture.speech[1], mixture.speech[0] + 0.1 * mixture.noise, mixture.noise])
    result = {"key": row["key"], "evaluations": 1, "seconds": 0.0}
    result |= trials.scores(mixture, sources, None)
    frame = findings.results_frame([plan("lips", material, SAMPLER)[0]], [result])
    assert (frame.si_sdr < 5).all() and frame.si_sdr_swapped.iloc[0] > 20
    assert findings.lips(frame).assigned_right.iloc[0] == 0


def test_speakers_off_screen_have_no_lips(material):
    two = plan("noise_models", material, SAMPLER)[-1]
    assert two.row["pool"] == [IN_VIEW, OFF_SCREEN]
    assert lips_for(two.arm, two.row, material.voices).shape == (1, 25, 2)
    one = next(t for t in plan("conditions", material, SAMPLER) if t.row["pool"] == [OFF_SCREEN])
    assert lips_for(one.arm, one.row, material.voices) is None


def test_conditions_have_the_same_speech(material, tmp_path):
    planned = plan("conditions", material, SAMPLER)
    assert {(t.arm.noise, t.row["condition"]) for t in planned} == {
        (prior, noise) for prior in ("wham", "dns") for noise in ("wham", "dns")
    }
    rows = {t.row["key"]: t.row for t in planned}
    for index in range(CONFIG.mixtures):
        pair = rows[f"wham-{index:04d}"], rows[f"dns-{index:04d}"]
        assert pair[0]["speech_keys"] == pair[1]["speech_keys"]
        assert pair[0]["noise_key"].startswith("wham") and pair[1]["noise_key"].startswith("dns")
    frame = findings.results_frame(planned, run(planned, material, tmp_path))
    values = {
        ("wham", "wham"): 8.0,
        ("wham", "dns"): 5.0,
        ("dns", "dns"): 7.0,
        ("dns", "wham"): 1.0,
    }
    frame["si_sdr"] = [
        values[p, c] + 0.1 * i
        for p, c, i in zip(frame.prior, frame.condition, frame["index"], strict=True)
    ]
    found = findings.conditions(frame).set_index(["prior", "noise"])
    assert found.lost_to_noise["wham", "dns"] == pytest.approx(3)
    assert found.lost_to_prior["wham", "dns"] == pytest.approx(2)
    assert found.lost_to_noise_ci["wham", "dns"] == pytest.approx(0, abs=1e-9), "paired"
    assert found.lost_to_prior["dns", "wham"] == pytest.approx(7)


def test_differences_of_noise_models_are_paired(material, tmp_path):
    planned = [t for t in plan("noise_models", material, SAMPLER) if t.row["num_speakers"] == 2]
    frame = findings.results_frame(planned, run(planned, material, tmp_path))
    spread = np.random.default_rng(0).normal(0, 10, 1000)
    frame["si_sdr"] = spread[: len(frame) // 4].tolist() * 4
    frame.loc[frame.arm == "nmf", "si_sdr"] -= 2.5
    found = findings.noise_models(frame, "wham")
    nmf = found[(found.model == "nmf") & (found.who == "all")]
    assert nmf.diffusion_minus.tolist() == pytest.approx([2.5] * 3)
    assert nmf.diffusion_minus_ci.tolist() == pytest.approx([0] * 3, abs=1e-9)
    assert (nmf.si_sdr_ci > 1).all()
    assert set(found.who) == {"all", IN_VIEW, OFF_SCREEN}


def test_interval_is_students():
    mean, half, count = findings.interval([1.0, 2.0, 3.0, 4.0, float("nan")])
    assert (mean, count) == (2.5, 4)
    assert half == pytest.approx(3.182446 * 1.290994 / 2, rel=1e-5)  # t(0.975; 3) from a table
    assert math.isnan(findings.interval([1.0])[1]) and math.isnan(findings.interval([])[0])


def test_what_is_kept_is_not_done_again(material, tmp_path):
    planned, seen = plan("cost", material, SAMPLER), []
    first = run(planned[:3], material, tmp_path, seen)
    assert sum(map(len, seen)) == 3
    seen.clear()
    path = trials.path_of(planned[0], lambda arm: tmp_path / arm.name)
    path.write_text("{")  # cut short
    again = run(planned, material, tmp_path, seen)
    assert sum(map(len, seen)) == len(planned) - 2
    assert [r | {"seconds": 0} for r in again[:3]] == [r | {"seconds": 0} for r in first]
    assert json.loads(path.read_text())["key"] == planned[0].row["key"]
    seen.clear()
    assert run(planned, material, tmp_path, seen) == again and not seen
    planned[1].row["noise_gain"] *= 1.1
    run(planned, material, tmp_path, seen)
    assert sum(map(len, seen)) == sum(t.row is planned[1].row for t in planned), "another mixture"


def test_a_diverged_mixture_is_counted_and_has_no_value(material, tmp_path):
    planned = [t for t in plan("cost", material, SAMPLER) if t.arm.name == "fast"]
    arm = Arm(f"bad for {planned[0].row['key']}", "wham", SAMPLER)
    planned = [trials.Trial(arm, t.row) for t in planned]
    frame = findings.results_frame(planned, run(planned, material, tmp_path))
    found = findings.cost(frame)
    assert (found.mixtures[0], found.failed[0]) == (2, 1) and math.isfinite(found.si_sdr[0])


def test_batches_are_of_one_arm_and_shape_and_the_costliest_come_first(material):
    planned = plan("noise_models", material, PRESETS["fast"])
    batches = batches_of([(t, Path(t.row["key"])) for t in planned], 4)
    assert sum(map(len, batches)) == len(planned) and max(map(len, batches)) == 4
    for batch in batches:
        assert len({(t.arm, tuple(t.row["pool"])) for t, _ in batch}) == 1
    costs = [sum(calls(t) for t, _ in batch) for batch in batches]
    assert costs == sorted(costs, reverse=True)
    # fast: 10 steps × 4 draws of two speakers and the noise
    assert max(calls(t) for t in planned) == 40 * 3


def test_processes_give_what_one_process_gives(material, tmp_path):
    planned = plan("cost", material, SAMPLER)[:4]
    one = run(planned, material, tmp_path / "one", batch_size=2)
    job = make_job(material, [])
    two = run_trials(planned, job, lambda arm: tmp_path / "two" / arm.name, 2, 2)
    assert [r | {"seconds": 0} for r in one] == [r | {"seconds": 0} for r in two]


@pytest.mark.parametrize("name", ["noise_models", "lips", "conditions", "cost"])
def test_tables_and_plots(material, tmp_path, name):
    planned = plan(name, material, SAMPLER)
    frame = findings.results_frame(planned, run(planned, material, tmp_path))
    found = findings.table(name, frame, "wham")
    text = markdown(found)
    assert len(text.splitlines()) == len(found) + 2 and "nan" not in text and "±" in text
    draw(name, found, tmp_path / "a.svg")
    draw(name, found, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_refusals(material):
    short = make_reader("speech", ["a"], lips=False, frames=20)
    with pytest.raises(DavssError, match=r"no clips of others than man .* lower it"):
        plan("conditions", Material(material.speech, short, material.noises, CONFIG, 0), SAMPLER)
    few = make_reader("grid", ["man"] * 3, lips=True)
    with pytest.raises(DavssError, match="3 clips of man .* 4 are needed"):
        plan("lips", Material(few, few, material.noises, CONFIG, 0), SAMPLER)
    nobody = ExperimentConfig(seconds=1.0, lips_speaker="nobody")
    with pytest.raises(DavssError, match="no clips with lips of speaker nobody"):
        plan("lips", Material(few, few, material.noises, nobody, 0), SAMPLER)
    typo = ExperimentConfig(seconds=1.0, cost_samplers=("dasp 5",))
    with pytest.raises(DavssError, match="no sampler 'dasp 5'; known are fast, paper"):
        plan("cost", Material(few, few, material.noises, typo, 0), SAMPLER)
    with pytest.raises(DavssError, match="x-1: in none of the corpora"):
        Voices(few)["x-1"]  # type: ignore[arg-type]


def test_a_worker_keeps_its_separator_while_the_arm_stays(material, tmp_path):
    made = []
    job = make_job(material, [])

    def make(arm):
        made.append(arm)
        return job.make_separator(arm)

    worker = Worker(Job(make, job.voices, job.noises, seed=0))
    first, second = plan("cost", material, SAMPLER)[:2]
    worker([(first, tmp_path / "1")])
    worker([(second, tmp_path / "2")])
    assert first.arm == second.arm and len(made) == 1
