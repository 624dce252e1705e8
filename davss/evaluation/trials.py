"""A plan of trials: which mixtures are separated in which ways.

A trial is one mixture, a row of `davss.evaluation.mixtures`, separated in one way, its arm. Arms
of a plan share mixtures, and a mixture's key with the seed fixes the sampler's random numbers, so
that their differences are paired. As a parquet manifest a plan has one line per trial: the columns
of the mixture, and `arm`, `noise`, `sampler` (JSON), `lips`, `shift` and `peer`.

Shapes: K speakers · L of them in view · V video frames · D visual feature size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas

from davss.config import SamplerConfig, digest, to_dict
from davss.errors import DavssError
from davss.evaluation.mixtures import Clips, Mixture
from davss.media import FPS

REMARKS = ("speaker_seen", "scene_seen")  # about a mixture, without a say in it
UNTRAINED = ("nmf", "gaussian", "none")  # noise models beside the priors


@dataclass(frozen=True)
class Arm:
    """One way to separate: `noise` is the corpus of a noise prior or a model without training;
    `lips` right, wrong, none or late, `shift` the seconds by which late lips come too late; `peer`
    is somebody else's program in the place of ours, which has no sampler.
    """

    name: str
    noise: str
    sampler: SamplerConfig | None
    lips: Literal["right", "wrong", "none", "late"] = "right"
    shift: float = 0.0
    peer: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the estimates, as plain values: not the name."""
        plain = {"noise": self.noise, "lips": self.lips, "shift": self.shift, "peer": self.peer}
        return plain | {"sampler": None if self.sampler is None else to_dict(self.sampler)}


@dataclass(frozen=True)
class Trial:
    """A mixture's row, to be separated by an arm."""

    arm: Arm
    row: dict[str, Any]

    @property
    def name(self) -> str:
        """What its files are called: the mixture's key and the digest of its row."""
        decisive = {name: value for name, value in self.row.items() if name not in REMARKS}
        return f"{self.row['key']}-{digest(decisive)}"


def cross(arms: Sequence[Arm], rows: Sequence[dict[str, Any]]) -> list[Trial]:
    """Every mixture separated in every way."""
    return [Trial(arm, row) for arm in arms for row in rows]


def as_frame(trials: Iterable[Trial]) -> pandas.DataFrame:
    """The manifest of a plan, one line per trial."""
    lines = []
    for trial in trials:
        settings = trial.arm.settings
        settings["sampler"] = json.dumps(settings["sampler"])
        lines.append({"arm": trial.arm.name, **settings, **trial.row})
    return pandas.DataFrame(lines)


def lips_for(
    arm: Arm, row: Mapping[str, Any], mixture: Mixture, voices: Clips
) -> np.ndarray | None:
    """What an arm sees of a rendered row, (L, V, D): of the speakers in view their own lips, late
    ones, or those of a wrong clip; None where it sees nothing. Frames beyond a clip's ends repeat
    its last.
    """
    if arm.lips == "none" or mixture.lips is None:
        return None
    if arm.lips == "right":
        return mixture.lips
    seen, num_frames = mixture.lips.shape[:2]
    which = "wrong" if arm.lips == "wrong" else "speech"
    places = list(zip(row[f"{which}_keys"], row[f"{which}_offsets"], strict=True))
    shift = round(arm.shift * FPS)
    found = []
    for key, first in places[:seen]:
        features = voices[key].lips
        if features is None:
            raise DavssError(f"{key}: has no lips; build shards anew")
        frames = np.arange(first - shift, first - shift + num_frames)
        found.append(features[frames.clip(0, len(features) - 1)])
    return np.stack(found)
