"""What the report says of the scores: groups of a table, differences, and figures for DVC."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas

from davss.evaluation.records import COST
from davss.evaluation.statistics import (
    STRATA,
    columns,
    difference,
    interval,
    per_mixture,
    strata,
)

SPEECH_METRICS = (
    "si_sdr_mixture",
    "si_sdr",
    "si_sdri",
    "si_sir",
    "si_sar",
    "pesq_mixture",
    "pesq",
    "estoi_mixture",
    "estoi",
)
BETTER, UNSURE, WORSE, NONE = "better", "unsure", "worse", "none"
# How the noise models without training are called; any other is a prior, named by its corpus.
UNTRAINED = {"nmf": "NMF", "gaussian": "stationary Gaussian", "none": "none"}
# What the noise prior is held against, and by how much the paper says it wins (SI-SDR in dB).
BASELINE, CLAIMED_DB = "nmf", 2.0
ALL = "all"  # conditions and numbers of speakers together
CELL = ["condition", "num_speakers"]


def summarise(scores: pandas.DataFrame) -> pandas.DataFrame:
    """A line for every noise model, condition, number of speakers, and whether training knew the
    speakers (`who`), of rows of `davss.evaluation.scoring`, in their order.

    `mixtures`, `failed`, and each metric's mean and half width of its 95 % interval (`_ci`): those
    of speech, `noise_si_sdr`, and the cost of a mixture; NaN where there is nothing to average.
    `verdict` says whether speech is `better` or `worse` than the mixture, or `unsure`.
    """
    lines = []
    for place, rows in scores.groupby(["noise_model", *CELL], sort=False):
        noise = rows[rows.source == "noise"]
        for who, own in strata(rows[rows.source != "noise"]):
            gains, whole = per_mixture(own, "si_sdri"), noise[noise.key.isin(own.key)]
            line: dict[str, Any] = dict(zip(("noise_model", *CELL), place, strict=True))
            line |= {"who": who, "mixtures": len(gains), "failed": int(gains.isna().sum())}
            for name in SPEECH_METRICS:
                line |= columns(name, interval(per_mixture(own, name)))
            line |= columns("noise_si_sdr", interval(whole.si_sdr))
            for name in COST:
                line |= columns(name, interval(whole[name][whole.error.isna()]))
            # no interval: one mixture proves nothing
            line["verdict"] = verdict(line["si_sdri"], line["si_sdri_ci"], 0.0)
            lines.append(line)
    return pandas.DataFrame(lines)


def verdict(mean: float, half: float, bar: float) -> str:
    """Whether a mean is above a bar, beyond the error (`better`), on average (`unsure`) or not."""
    if math.isnan(mean):
        return NONE
    if mean <= bar:
        return WORSE
    return BETTER if mean - half > bar else UNSURE


def paired_differences(scores: pandas.DataFrame) -> pandas.DataFrame:
    """SI-SDR of every trained prior minus the baseline's over the same mixtures, in dB: over all of
    them (condition and num_speakers are "all"), then by condition and number of speakers; empty
    where either is missing. `verdict` says whether the paper's claim holds.
    """
    speech = scores[scores.source != "noise"]
    trained = [model for model in speech.noise_model.unique() if model not in UNTRAINED]
    lines = []
    for who, rows in strata(speech):
        index = ["noise_model", *CELL, "key"]
        values = per_mixture(rows, by=index).unstack("noise_model")
        for model in trained if BASELINE in values else ():
            cells = {(ALL, ALL): values, **dict(list(values.groupby(level=CELL, sort=False)))}
            for (condition, count), own in cells.items():
                mean, half, items = difference(own[model], own[BASELINE])
                line = {"noise_model": model, "condition": condition, "num_speakers": count}
                line |= {"who": who, "mixtures": items, "si_sdr": mean, "si_sdr_ci": half}
                lines.append(line | {"verdict": verdict(mean, half, CLAIMED_DB)})
    return pandas.DataFrame(lines)


def headline_of(groups: pandas.DataFrame) -> pandas.DataFrame:
    """The groups of unseen speakers; where there are none, those of the next best known."""
    for who in STRATA.values():
        if len(groups) and (groups.who == who).any():
            return groups[groups.who == who]
    return groups


def as_scores(groups: pandas.DataFrame, differences: pandas.DataFrame) -> str:
    """All means, intervals and differences as JSON, a list of each."""
    parts = {"groups": groups, f"minus_{BASELINE}": differences}
    plain = {name: json.loads(part.to_json(orient="records")) for name, part in parts.items()}
    return json.dumps(plain, indent=2) + "\n"


def as_metrics(
    groups: pandas.DataFrame,
    differences: pandas.DataFrame,
    model: str,
    outcomes: Mapping[str, Mapping[str, float]],
) -> str:
    """The few figures that one compares between runs, as flat JSON with short names, so that a line
    of `dvc metrics show` fits a terminal: mean SI-SDRi of noise model `model` by condition and
    number of speakers, its gain in SI-SDR over the baseline, and the denoising gains of the speech
    prior and of this one (`outcomes` by name), in dB. Of unseen speakers, if there are any.
    """
    own = headline_of(groups[groups.noise_model == model])
    found = {f"{g.condition}{g.num_speakers}": g.si_sdri for g in own.itertuples()}
    for one in headline_of(differences).itertuples():
        if (one.noise_model, one.condition) == (model, ALL):
            found[f"vs_{BASELINE}"] = one.si_sdr
    for kind, name in (("speech", "speech"), ("noise", model)):
        found[f"{kind}_gain"] = outcomes.get(name, {}).get("valid_gain", math.nan)
    plain = {name: None if np.isnan(value) else round(value, 2) for name, value in found.items()}
    return json.dumps(plain, indent=2) + "\n"
