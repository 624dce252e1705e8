"""The experiments on small priors, planned: which mixtures, separated in which ways.

An experiment is a list of trials, and a trial one mixture separated in one way, its arm. Arms of
an experiment share mixtures, and a mixture's key with the seed fixes the sampler's random numbers,
so that their differences are paired. Everything is drawn from the test splits and from (seed,
key); clips and noises are dealt like cards, so that none comes twice before all have come.

A row is a row of `davss.evaluation.mixtures` and besides: `pool` ("lips" or "off-screen" of each
speaker, those with lips first) and `wrong`, of each speaker with lips another clip of the same
person, from which wrong lips are taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from davss.config import PRESETS, ExperimentConfig, ExperimentName, SamplerConfig, changed
from davss.errors import DavssError
from davss.evaluation.mixtures import active_offset, common_rate, seeded, set_levels
from davss.shards.contract import Clip
from davss.shards.reader import ShardReader

MODELS = ("nmf", "gaussian", "none")  # beside the diffusion prior
IN_VIEW, OFF_SCREEN = "lips", "off-screen"
SPEECH = "voxceleb2"  # corpus with lips


@dataclass(frozen=True)
class Arm:
    """One way to separate: `noise` is the corpus of a noise prior or a model without training;
    `lips` right, wrong, none or late, `shift` the seconds by which late lips come too late.
    """

    name: str
    noise: str
    sampler: SamplerConfig
    lips: Literal["right", "wrong", "none", "late"] = "right"
    shift: float = 0.0


@dataclass(frozen=True)
class Trial:
    """A mixture's row, to be separated by an arm."""

    arm: Arm
    row: dict[str, Any]


class Voices:
    """Clips of several corpora by key, as `davss.evaluation.mixtures` reads one."""

    def __init__(self, *readers: ShardReader) -> None:
        self.readers = readers
        self.sample_rate, self.manifest = readers[0].sample_rate, readers[0].manifest

    def __getitem__(self, key: str) -> Clip:
        for reader in self.readers:
            if key in reader:
                return reader[key]
        raise DavssError(f"{key}: in none of the corpora of the experiment; build shards anew")


@dataclass(frozen=True)
class Material:
    """The test splits an experiment draws from: `speech` has lips, `others` speak off-screen."""

    speech: ShardReader
    others: ShardReader
    noises: dict[str, ShardReader]
    config: ExperimentConfig
    seed: int

    @property
    def voices(self) -> Voices:
        """Clips of everybody."""
        return Voices(self.speech, *([] if self.others is self.speech else [self.others]))

    @property
    def person(self) -> str:
        """Who is in view: `lips_speaker`, or whoever has the most clips with lips."""
        seen = self.speech.clips[self.speech.clips.num_frames > 0]
        person = self.config.lips_speaker or str(seen.speaker.value_counts().sort_index().idxmax())
        if person not in set(seen.speaker):
            raise DavssError(f"{self.speech.manifest}: no clips with lips of speaker {person}")
        return person


def plan(name: ExperimentName, material: Material, sampler: SamplerConfig) -> list[Trial]:
    """All trials of an experiment; DavssError when a corpus has too few clips long enough."""
    planners = {"noise_models": noise_models, "lips": lips, "conditions": conditions, "cost": cost}
    return planners[name](material, sampler)


def noise_models(material: Material, sampler: SamplerConfig) -> list[Trial]:
    """The noise prior, NMF, a Gaussian and none, at every SNR, for one and two speakers: one in
    view or one off-screen by turns; one in view with one off-screen.
    """
    config = material.config
    arms = [Arm(model, model, sampler) for model in (config.noise, *MODELS)]
    rows = [
        _row(material, f"k{count}-snr{snr_db:g}", index, pools, snr_db=snr_db, deal=count)
        for count in config.num_speakers
        for snr_db in config.snr_db
        for index in range(config.mixtures)
        for pools in [[IN_VIEW, OFF_SCREEN] if count == 2 else [_by_turns(index)]]
    ]
    return [Trial(arm, row) for arm in arms for row in rows]


def lips(material: Material, sampler: SamplerConfig) -> list[Trial]:
    """Two sentences of one person: guidance weights with right lips, and other lips at one."""
    config = material.config
    plain = changed(sampler, guidance_weight=0.0)
    weighted = changed(sampler, guidance_weight=config.lips_weight)
    arms = [
        Arm(f"right, w {weight:g}", config.noise, changed(sampler, guidance_weight=weight))
        for weight in config.guidance_weights
    ]
    arms += [
        Arm(f"late by {shift:g} s, w {config.lips_weight:g}", config.noise, weighted, "late", shift)
        for shift in config.lips_shifts
    ]
    arms.append(Arm(f"wrong, w {config.lips_weight:g}", config.noise, weighted, "wrong"))
    arms.append(Arm("none", config.noise, plain, "none"))
    rows = [
        _row(material, "same", index, [IN_VIEW, IN_VIEW], snr_db=config.lips_snr_db)
        for index in range(config.mixtures)
    ]
    return [Trial(arm, row) for arm in arms for row in rows]


def conditions(material: Material, sampler: SamplerConfig) -> list[Trial]:
    """Every noise prior on the test noise of every corpus, the same clips of speech in all."""
    config = material.config
    rows = [
        _row(material, noise, index, [_by_turns(index)], noise, config.conditions_snr_db)
        for noise in material.noises
        for index in range(config.mixtures)
    ]
    arms = [Arm(prior, prior, sampler) for prior in material.noises]
    return [Trial(arm, row) for arm in arms for row in rows]


def cost(material: Material, sampler: SamplerConfig) -> list[Trial]:
    """Samplers of different cost on the same mixtures of one speaker; their guidance weight is
    that of `sampler`.
    """
    config = material.config
    known = samplers()
    unknown = [name for name in config.cost_samplers if name not in known]
    if unknown:
        raise DavssError(
            f"key 'experiment.cost_samplers': no sampler '{unknown[0]}'; known are "
            + ", ".join(known)
        )
    weight = sampler.guidance_weight
    arms = [
        Arm(name, config.noise, changed(known[name], guidance_weight=weight))
        for name in config.cost_samplers
    ]
    rows = [
        _row(material, "cost", index, [_by_turns(index)], snr_db=config.cost_snr_db)
        for index in range(config.cost_mixtures)
    ]
    return [Trial(arm, row) for arm in arms for row in rows]


def samplers() -> dict[str, SamplerConfig]:
    """What `cost` can compare: the presets, and `daps` (as in fast) and `dps` with other numbers
    of steps and draws.
    """
    fast, dps = PRESETS["fast"], changed(PRESETS["paper"], s_churn=10.0)
    found = dict(PRESETS)
    for steps in (5, 10, 20, 40):
        found[f"daps {steps}"] = changed(fast, num_steps=steps, num_samples=1)
        found[f"daps {steps} × 4"] = changed(fast, num_steps=steps, num_samples=4)
    for steps in (10, 20, 40, 100):
        found[f"dps {steps}"] = changed(dps, num_steps=steps)
    return found


def _by_turns(index: int) -> str:
    return IN_VIEW if index % 2 == 0 else OFF_SCREEN


def _row(
    material: Material,
    cell: str,
    index: int,
    pools: Sequence[str],
    noise: str | None = None,
    snr_db: float = math.nan,
    deal: int = 0,
) -> dict[str, Any]:
    """One mixture; speech and noise of an index are the same in all cells of a `deal`."""
    noise = noise or material.config.noise
    background, seed = material.noises[noise], material.seed
    rate = common_rate(material.speech, background)
    common_rate(material.others, background)
    num_samples = round(material.config.seconds * rate)
    name = (seed, deal, "-".join(pools), index)
    keys, wrong = _talkers(material, pools, num_samples, name)
    rng = seeded("offsets", *name)
    offsets = [active_offset(material.voices[key], num_samples, rng) for key in keys]
    noises = _long(background, num_samples)
    noise_key = _dealt(noises, index, seeded("noise", seed, noise))
    slack = int(background.clips.set_index("key").num_samples[noise_key]) - num_samples
    row = {
        "key": f"{cell}-{index:04d}",
        "condition": noise,
        "num_speakers": len(pools),
        "pool": list(pools),
        "speech_keys": keys,
        "speech_offsets": offsets,
        "wrong": [(key, _first(material, key, num_samples)) for key in wrong],
        "sir_db": 0.0,
        "noise_key": noise_key,
        "noise_offset": int(seeded("noise", seed, noise, deal, index).integers(slack + 1)),
        "snr_db": float(snr_db),
        "seconds": num_samples / rate,
        "sample_rate": rate,
        "seed": seed,
    }
    return set_levels(row, material.voices, background)


def _talkers(
    material: Material, pools: Sequence[str], num_samples: int, name: tuple
) -> tuple[list[str], list[str]]:
    """A clip of every speaker, and as many other clips as there are speakers in view."""
    person, index, seen = material.person, name[-1], list(pools).count(IN_VIEW)
    own = _long(material.speech, num_samples, speaker=person)
    needed = 2 * seen if seen > 1 else seen  # only with two in view are wrong clips asked for
    if len(own) < needed:
        raise DavssError(
            f"{material.speech.manifest}: {len(own)} clips of {person} are as long as "
            f"experiment.seconds, {needed} are needed; lower it"
        )
    keys: list[str] = []
    if seen:
        keys.append(_dealt(own, index, seeded("clips", material.seed)))
    others = [key for key in own if key not in keys]
    more = [str(key) for key in seeded("others", *name).permutation(others)] if seen else []
    keys += more[: seen - 1]
    wrong = more[max(seen - 1, 0) :][:seen]
    if OFF_SCREEN in pools:
        keys.append(_off_screen(material, num_samples, name))
    return keys, wrong


def _off_screen(material: Material, num_samples: int, name: tuple) -> str:
    """A clip of the next speaker off-screen."""
    clips = material.others.clips
    clips = clips[(clips.num_samples >= num_samples) & (clips.speaker != material.person)]
    if clips.empty:
        raise DavssError(
            f"{material.others.manifest}: no clips of others than {material.person} are as long as "
            "experiment.seconds; lower it"
        )
    speaker = _dealt(sorted(set(clips.speaker)), name[-1], seeded("speakers", material.seed))
    return str(seeded("clip", *name).choice(sorted(clips.key[clips.speaker == speaker])))


def _first(material: Material, key: str, num_samples: int) -> int:
    return active_offset(material.voices[key], num_samples, seeded("wrong", material.seed, key))


def _long(reader: ShardReader, num_samples: int, speaker: str | None = None) -> list[str]:
    """Keys of clips that are long enough, sorted; of a speaker, those with lips."""
    clips = reader.clips[reader.clips.num_samples >= num_samples]
    if speaker is not None:
        clips = clips[(clips.speaker == speaker) & (clips.num_frames > 0)]
    elif clips.empty:
        raise DavssError(f"{reader.manifest}: no clip is as long as experiment.seconds; lower it")
    return sorted(clips.key)


def _dealt(cards: Sequence[str], index: int, rng: np.random.Generator) -> str:
    """Card `index` of cards shuffled anew in every round."""
    for _ in range(index // len(cards)):
        rng.permutation(len(cards))
    return str(cards[rng.permutation(len(cards))[index % len(cards)]])
