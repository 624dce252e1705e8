"""The plans, with a separator that says what the lips it sees say: pairing, levels, strata, paired
differences, tables and plots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pandas
import pytest
import torch

from davss.config import ExperimentConfig, ExperimentName, MixturesConfig, SamplerConfig
from davss.errors import DavssError
from davss.evaluation import plots
from davss.evaluation.batches import passes
from davss.evaluation.material import Material
from davss.evaluation.mixtures import IN_VIEW, OFF_SCREEN, Library, plan_mixtures, render, rows_of
from davss.evaluation.plans import (
    PLANS,
    conditions,
    cost,
    lips,
    noise_models,
    robust_lips,
    robust_sound,
)
from davss.evaluation.runner import Job, run_plan
from davss.evaluation.scoring import score_plan
from davss.evaluation.tables import markdown
from davss.evaluation.trials import Arm, Trial, lips_for
from davss.shards.contract import Clip
from davss.storage import LocalStore
from tests.evaluation.test_mixtures import RATE, Reader

FRAME = 320
SAMPLER = SamplerConfig(num_steps=3, guidance_weight=0.0)
CONFIG = ExperimentConfig(mixtures=6, seconds=1.0, cost_mixtures=4, speech_corpus="speech")
QUICK = replace(
    CONFIG,
    mixtures=4,
    snr_db=(0.0, 5.0),
    sound_damage=("level:-20", "clip:0.3", "band:telephone"),
    lips_damage=("shift:0", "shift:2", "shift:-2"),
)


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


def shifted(clip: Clip, text: str, first: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Lips of a shifted video."""
    assert text.startswith("shift:") and clip.lips is not None
    frames = np.arange(len(clip.lips)) - int(text.removeprefix("shift:"))
    return clip.lips[frames.clip(0, len(clip.lips) - 1)]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Training knows the man, who is in view, and nobody else."""
    readers = {
        "grid": make_reader("grid", ["man"] * 8 + ["woman"], lips=True),
        "speech": make_reader("speech", ["a", "a", "b", "c"], lips=False),
        "wham": make_reader("wham", [""] * 4, False),
        "dns": make_reader("dns", [""] * 3, False),
    }
    for name, reader in readers.items():
        folder = tmp_path_factory.mktemp(name)
        trained = pandas.DataFrame({"speaker": ["man" if name == "grid" else "another"]})
        trained.to_parquet(folder / "train.clips.parquet")
        readers[name] = replace(reader, manifest=folder / "test.clips.parquet")
    return Material(
        speech=readers["grid"],
        others=readers["speech"],
        noises={name: readers[name] for name in ("wham", "dns")},
        config=CONFIG,
        sampler=SAMPLER,
        seed=0,
        pictures=shifted,
    )


@dataclass
class LipReader:
    """Says what the lips it sees say, with a little of the mixture; unseen speakers get shares."""

    arm: Arm
    device: str
    speech: Reader
    dtype: torch.dtype = torch.float32

    def __call__(self, mixture, *, lips, num_speakers, sample_rate, keys, seed):
        assert sample_rate == RATE and seed == 0
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
        return SimpleNamespace(
            speech=speech, noise=noise, trace={}, errors=errors, num_evaluations=3
        )


def run(planned: list[Trial], material: Material, folder: Path) -> pandas.DataFrame:
    """The rows of the speakers of a plan."""
    make = partial(LipReader, speech=material.speech)
    folders = {trial.arm.name: trial.arm.name for trial in planned}
    job = Job(material.library, make, LocalStore(folder), folders)
    records = run_plan(planned, job, 4, 1)
    rows = score_plan(planned, records, material.library, job.storage, perceptual=False)
    return rows[rows.source != "noise"]


def test_noise_models_have_exact_levels_and_the_same_clips_at_every_snr(material):
    rows = {t.row["key"]: t.row for t in noise_models.plan(material)}
    assert len(rows) == 2 * 3 * CONFIG.mixtures
    for row in rows.values():
        mixture = render(row, material.library, material.noises["wham"])
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
    rows = [t.row for t in noise_models.plan(material) if t.arm.name == "wham"]
    for row in rows:
        for pool, key in zip(row["pool"], row["speech_keys"], strict=True):
            assert (pool == IN_VIEW) == (key in material.speech)
            assert key != "grid-8", "the woman has fewer clips"
    two = [row for row in rows if row["key"].startswith("k2-snr0")]
    assert len({row["speech_keys"][0] for row in two}) == CONFIG.mixtures
    assert {row["noise_key"] for row in two} == set(material.noises["wham"].stored)


def test_planning_is_deterministic_and_does_not_depend_on_the_number_of_mixtures(material):
    fewer = replace(material, config=replace(CONFIG, mixtures=3))
    for one in (noise_models, lips, conditions):
        many = {t.row["key"]: t.row for t in one.plan(material)}
        few = {t.row["key"]: t.row for t in one.plan(fewer)}
        assert few.items() <= many.items() and len(few) < len(many)
    other = replace(material, seed=1)
    assert lips.plan(other)[0].row != lips.plan(material)[0].row


def seen_by(trial: Trial, material: Material) -> np.ndarray | None:
    mixture = material.library.render(trial.row)
    return lips_for(trial.arm, trial.row, mixture, material.library)


def test_lips_are_those_of_the_arm(material):
    planned = lips.plan(material)
    assert len({t.arm for t in planned}) == 3 + 2 + 1 + 1
    assert [t.arm.sampler.guidance_weight for t in planned[:: CONFIG.mixtures]] == [
        *(0.0, 0.5, 1.0),
        *(0.0, 0.0, 0.0, 0.0),
    ]
    for trial in planned:
        row, seen = trial.row, seen_by(trial, material)
        own = [int(key.split("-")[1]) for key in row["speech_keys"]]
        wrong = [int(key.split("-")[1]) for key in row["wrong_keys"]]
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
    planned = lips.plan(material)
    found = lips.table(run(planned, material, tmp_path), CONFIG).set_index("lips")
    assert set(found.who) == {"seen"}, "the man"
    right, wrong, none = (found.loc[name] for name in ("right, w 0", "wrong, w 0", "none"))
    assert right.assigned_right == 1 and right.si_sdr > 15 > 0 > wrong.si_sdr
    assert right.assigned_low == pytest.approx(1 / (1 + 1.959964**2 / 6), abs=1e-6), "Wilson"
    assert none.assigned_right == 0, "equal estimates are no right assignment"
    assert wrong.right_minus == pytest.approx(right.si_sdr - wrong.si_sdr)
    assert found.loc["late by 0.2 s, w 0"].si_sdr < 0
    assert math.isnan(right.right_minus) and math.isnan(none.right_minus)


def test_speakers_off_screen_have_no_lips(material):
    two = noise_models.plan(material)[-1]
    assert two.row["pool"] == [IN_VIEW, OFF_SCREEN]
    assert seen_by(two, material).shape == (1, 25, 2)
    one = next(t for t in conditions.plan(material) if t.row["pool"] == [OFF_SCREEN])
    assert seen_by(one, material) is None


def test_conditions_have_the_same_speech(material, tmp_path):
    planned = conditions.plan(material)
    assert {(t.arm.noise, t.row["condition"]) for t in planned} == {
        (prior, noise) for prior in ("wham", "dns") for noise in ("wham", "dns")
    }
    rows = {t.row["key"]: t.row for t in planned}
    for index in range(CONFIG.mixtures):
        pair = rows[f"wham-{index:04d}"], rows[f"dns-{index:04d}"]
        assert pair[0]["speech_keys"] == pair[1]["speech_keys"]
        assert pair[0]["noise_key"].startswith("wham") and pair[1]["noise_key"].startswith("dns")
    frame = run(planned, material, tmp_path)
    values = {
        ("wham", "wham"): 8.0,
        ("wham", "dns"): 5.0,
        ("dns", "dns"): 7.0,
        ("dns", "wham"): 1.0,
    }
    frame["si_sdr"] = [
        values[p, c] + 0.1 * int(key.rsplit("-", 1)[1])
        for p, c, key in zip(frame.arm, frame.condition, frame.key, strict=True)
    ]
    found = conditions.table(frame, CONFIG)
    assert found.groupby("who", sort=False).size().to_dict() == {"unseen": 4, "seen": 4}
    assert (found.mixtures == 3).all(), "those of the man apart from the others"
    found = found[found.who == "unseen"].set_index(["prior", "noise"])
    assert found.lost_to_noise["wham", "dns"] == pytest.approx(3)
    assert found.lost_to_prior["wham", "dns"] == pytest.approx(2)
    assert found.lost_to_noise_ci["wham", "dns"] == pytest.approx(0, abs=1e-9), "paired"
    assert found.lost_to_prior["dns", "wham"] == pytest.approx(7)


def test_differences_of_noise_models_are_paired(material, tmp_path):
    planned = [t for t in noise_models.plan(material) if t.row["num_speakers"] == 2]
    frame = run(planned, material, tmp_path)
    spread = np.random.default_rng(0).normal(0, 10, 1000)
    frame["si_sdr"] = spread[: len(frame) // 5].tolist() * 5
    frame.loc[frame.arm == "nmf", "si_sdr"] -= 2.5
    found = noise_models.table(frame, CONFIG)
    nmf = found[found.model == "nmf"]
    assert nmf.who.tolist() == ["unseen", "seen"] * 3, "the man is never averaged with others"
    assert nmf.diffusion_minus.tolist() == pytest.approx([2.5] * 6)
    assert nmf.diffusion_minus_ci.tolist() == pytest.approx([0] * 6, abs=1e-9)
    assert (nmf.si_sdr_ci > 1).all()


def test_a_diverged_mixture_is_counted_and_has_no_value(material, tmp_path):
    planned = [t for t in cost.plan(material) if t.arm.name == "fast"]
    arm = Arm(f"bad for {planned[0].row['key']}", "wham", SAMPLER)
    found = cost.table(run([Trial(arm, t.row) for t in planned], material, tmp_path), CONFIG)
    found = found.set_index("who")
    assert (found.mixtures["seen"], found.failed["seen"]) == (2, 1), "the first is the man's"
    assert (found.mixtures["unseen"], found.failed["unseen"]) == (2, 0)
    assert found.si_sdr.notna().all()


def test_peers_are_arms_of_the_mixtures_of_one_speaker(material):
    planned = noise_models.plan(replace(material, peers=("rnnoise",)))
    others = [trial for trial in planned if trial.arm.peer]
    assert {trial.arm.name for trial in others} == {"rnnoise, given 8 kHz"}
    assert len(others) == 3 * CONFIG.mixtures and all(t.row["num_speakers"] == 1 for t in others)
    assert all(passes(trial) == 0 for trial in others)


@pytest.mark.parametrize("name", get_args(ExperimentName))
def test_tables_and_plots(material, tmp_path, name):
    mixtures = plan_mixtures(
        material.speech,
        material.noises["wham"],
        MixturesConfig(num_speakers=(1, 2), per_num_speakers=2, seconds=1.0),
        "wham",
        0,
    )
    material = replace(material, mixtures=list(rows_of(mixtures)), config=QUICK)
    planned = PLANS[name].plan(material)
    found = PLANS[name].table(run(planned, material, tmp_path), CONFIG)
    text = markdown(found)
    assert len(text.splitlines()) == len(found) + 2 and "nan" not in text and "±" in text
    assert set(found.who) <= {"unseen", "seen"}
    drawn = set()
    for _ in range(2 if name == "cost" else 1):  # the same text, drawn again
        figure = plots.new_figure()
        PLANS[name].plot(figure, found)
        drawn.add(plots.svg(figure, name))
    assert len(drawn) == 1
    if name == "quality":
        assert {"K = 1", "K = 2"} <= set(found)


def test_what_damage_costs_is_paired(material, tmp_path):
    material = replace(material, config=QUICK)
    planned = robust_sound.plan(material)
    assert len({t.name for t in planned}) == 16 and len({t.row["key"] for t in planned}) == 4
    found = robust_sound.table(run(planned, material, tmp_path), QUICK).set_index("damage")
    assert set(found.who) == {"unseen"} and found.mixtures.tolist() == [4] * 4
    # half of the mixture is its estimate: as good as the mixture, however loud
    assert found.lost["level:-20"] == pytest.approx(0, abs=1e-3)
    assert found.lost["clip:0.3"] > 0.5 and found.lost["band:telephone"] > 0.5
    assert found.si_sdr_mixture["none"] - found.si_sdr_mixture["clip:0.3"] == pytest.approx(
        found.lost["clip:0.3"], abs=1e-3
    )
    lips = robust_lips.table(run(robust_lips.plan(material), material, tmp_path), QUICK)
    lost = lips.set_index("damage").lost
    assert lost["shift:0"] == pytest.approx(0, abs=1e-6)
    assert lost["shift:2"] > 10 and lost["shift:-2"] > 10


def test_a_robustness_plan_needs_no_lips_at_all_for_sounds(material):
    alone = replace(material, speech=material.others, config=QUICK)
    assert robust_sound.plan(alone) == robust_sound.plan(replace(material, config=QUICK))
    with pytest.raises(DavssError, match="damage 'hum'"):
        robust_sound.plan(replace(alone, config=replace(QUICK, sound_damage=("hum",))))


def test_the_plan_of_the_docs_runs(material, tmp_path):
    """With the imports of `noise_models`, as the page says."""
    page = (Path(__file__).parents[2] / "docs/results.md").read_text()
    scope = dict(vars(noise_models))
    exec(page[page.index("def plan(material)") :].partition("```")[0], scope)
    planned = scope["plan"](material)
    found = scope["table"](run(planned, material, tmp_path), CONFIG)
    scope["plot"](plots.new_figure(), found)
    assert found.prior.tolist() == ["wham", "mine"] and set(found.who) == {"unseen"}
    assert (found.mixtures == CONFIG.mixtures).all()


def test_refusals(material):
    short = make_reader("speech", ["a"], lips=False, frames=20)
    with pytest.raises(DavssError, match=r"no clips of others than man .* lower it"):
        conditions.plan(replace(material, others=short))
    few = make_reader("grid", ["man"] * 3, lips=True)
    few = replace(material, speech=few, others=few)
    with pytest.raises(DavssError, match="3 clips of man .* 4 are needed"):
        lips.plan(few)
    nobody = replace(few, config=replace(CONFIG, lips_speaker="nobody"))
    with pytest.raises(DavssError, match="no clips with lips of speaker nobody"):
        lips.plan(nobody)
    typo = replace(few, config=replace(CONFIG, cost_samplers=("dasp 5",)))
    with pytest.raises(DavssError, match="no sampler 'dasp 5'; known are fast, paper"):
        cost.plan(typo)
    with pytest.raises(DavssError, match=r"x-1: not in .*test\.clips\.parquet"):
        Library((few.speech,), {})["x-1"]
