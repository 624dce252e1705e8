"""What plans of trials are made of: clips of the corpora, dealt into mixtures.

Everything is drawn from one split and from (seed, key); clips and noises are dealt like cards, so
that none comes twice before all have come. A row is one of `davss.evaluation.mixtures` and has
besides `wrong_keys` and `wrong_offsets`: of each speaker with lips another clip of the same person,
from which wrong lips are taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from davss.config import ExperimentConfig, SamplerConfig
from davss.errors import DavssError
from davss.evaluation.mixtures import (
    IN_VIEW,
    OFF_SCREEN,
    Library,
    Pictures,
    active_offset,
    common_rate,
    seeded,
    seen_in_training,
    set_levels,
)
from davss.shards.reader import ShardReader


@dataclass(frozen=True)
class Material:
    """What a plan draws from: splits of which `speech` has lips and `others` speak off-screen, the
    `sampler` of everything but comparisons of samplers, the rows of the stage `mixtures` where a
    plan takes those, the names of the `peers` that are installed, and what damages lips.
    """

    speech: ShardReader
    others: ShardReader
    noises: Mapping[str, ShardReader]
    config: ExperimentConfig
    sampler: SamplerConfig
    seed: int
    mixtures: Sequence[dict[str, Any]] = ()
    peers: Sequence[str] = ()
    pictures: Pictures | None = None

    @cached_property
    def library(self) -> Library:
        """All clips, to render rows from."""
        alone = self.others is self.speech
        voices = (self.speech,) if alone else (self.speech, self.others)
        return Library(voices, self.noises, self.pictures)

    @cached_property
    def person(self) -> str:
        """Who is in view: `lips_speaker`, or whoever has the most clips with lips; "": nobody."""
        seen = self.speech.clips[self.speech.clips.num_frames > 0]
        if seen.empty:
            return ""
        person = self.config.lips_speaker or str(seen.speaker.value_counts().sort_index().idxmax())
        if person not in set(seen.speaker):
            raise DavssError(f"{self.speech.manifest}: no clips with lips of speaker {person}")
        return person

    @cached_property
    def seen(self) -> dict[str, bool | None]:
        """Of every clip whether training knew its speaker or scene."""
        readers = (*self.noises.values(), self.others, self.speech)
        return {key: seen for reader in readers for key, seen in seen_in_training(reader).items()}


def by_turns(index: int) -> str:
    """In view for every other mixture."""
    return IN_VIEW if index % 2 == 0 else OFF_SCREEN


def make_row(
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
    rate = [common_rate(reader, background) for reader in (material.speech, material.others)][0]
    num_samples = round(material.config.seconds * rate)
    name = (seed, deal, "-".join(pools), index)
    keys, wrong = _talkers(material, pools, num_samples, name)
    rng = seeded("offsets", *name)
    offsets = [active_offset(material.library[key], num_samples, rng) for key in keys]
    noise_key = _dealt(_long(background, num_samples), index, seeded("noise", seed, noise))
    slack = int(background.clips.set_index("key").num_samples[noise_key]) - num_samples
    row = {
        "key": f"{cell}-{index:04d}",
        "condition": noise,
        "num_speakers": len(pools),
        "pool": list(pools),
        "speech_keys": keys,
        "speech_offsets": offsets,
        "speaker_seen": [material.seen[key] for key in keys],
        "wrong_keys": wrong,
        "wrong_offsets": [_first(material, key, num_samples) for key in wrong],
        "sir_db": 0.0,
        "noise_key": noise_key,
        "noise_offset": int(seeded("noise", seed, noise, deal, index).integers(slack + 1)),
        "scene_seen": material.seen[noise_key],
        "snr_db": float(snr_db),
        "seconds": num_samples / rate,
        "sample_rate": rate,
        "seed": seed,
    }
    return set_levels(row, material.library, background)


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
    return active_offset(material.library[key], num_samples, seeded("wrong", material.seed, key))


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
