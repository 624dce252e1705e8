"""Builds the results page: one HTML file with style, script, sound and pictures inside."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from davss.evaluation.metrics import source_names
from davss.evaluation.report import charts
from davss.evaluation.report.examples import (
    RANGE_DB,
    Example,
    flac,
    levels_db,
    loudness_gain,
    palette,
    picture,
)
from davss.evaluation.report.faces import Faces
from davss.evaluation.report.summary import (
    ALL,
    BASELINE,
    BETTER,
    CLAIMED_DB,
    NONE,
    UNSURE,
    UNTRAINED,
    WORSE,
    headline_of,
)
from davss.evaluation.statistics import stratum

HERE = Path(__file__).parent
NAMES = {"wham": "WHAM!", "dns": "DNS"}
VERDICTS = {
    BETTER: "beats the mixture",
    UNSURE: "within error of the mixture",
    WORSE: "falls short of the mixture",
    NONE: "nothing was scored",
}
WHO = {
    "unseen": "unseen speakers",
    "seen": "speakers known from training",
    "unknown": "speakers of whom it is not known whether training had them",
}
CLAIMS = {
    BETTER: "is met here",
    UNSURE: "is met here on average, but not beyond the error,",
    WORSE: "is not met here",
    NONE: "could not be tested here, for want of scores,",
}


@dataclass(frozen=True)
class Header:
    """What the page says about its origin; `date` as text, `sampler` name → value."""

    revision: str
    date: str
    profile: str
    sampler: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Results:
    """All that the page shows: `scores` of `davss.evaluation.scoring`, `groups`, `differences` of
    `davss.evaluation.report.summary`; `training` by prior name has the columns of history.csv,
    `outcomes` the figures of metrics.json, `robustness` by title the tables of those plans.

    Noise models without training are compared in a section of their own; all else, `examples` too,
    is about the trained priors.
    """

    header: Header
    scores: pandas.DataFrame
    groups: pandas.DataFrame
    examples: Sequence[Example]
    differences: pandas.DataFrame = field(default_factory=pandas.DataFrame)
    training: Mapping[str, pandas.DataFrame] = field(default_factory=dict)
    outcomes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    faces: Sequence[Faces] = ()
    robustness: Mapping[str, pandas.DataFrame] = field(default_factory=dict)


def _verbatim(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))


def build_page(results: Results) -> str:
    """The page as HTML; it asks for nothing over the network."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "corpus": corpus}
    environment.filters |= {"noise_model": noise_model}
    groups = results.groups[~results.groups.noise_model.isin(list(UNTRAINED))]
    main = headline_of(groups)
    return environment.get_template("template.html.j2").render(
        style=_verbatim("style.css"),
        script=_verbatim("player.js") + _verbatim("tables.js"),
        header=results.header,
        groups=list(groups.itertuples()),
        verdicts=VERDICTS,
        headline=headline(main),
        who=WHO[main.who.iloc[0]] if len(main) else "no speakers",
        mixtures=main.mixtures.sum(),
        failed=main.failed.sum(),
        comparison=_comparison(results),
        sets=_sets(results, main),
        training=[
            [Markup(svg) for svg in charts.training(history, corpus(name))]
            for name, history in results.training.items()
        ],
        outcomes=results.outcomes,
        robustness=[
            [Markup(svg) for svg in charts.robustness(table, title)]
            for title, table in results.robustness.items()
        ],
        faces=results.faces,
        scale=[f"rgb({r} {g} {b})" for r, g, b in palette()[:: len(palette()) // 12].tolist()],
        range_db=round(RANGE_DB),
    )


def headline(groups: pandas.DataFrame) -> str:
    """The result of the trained priors in one sentence."""
    rated = groups[groups.verdict != NONE]
    if rated.empty:
        return "No mixture has been scored with a trained noise prior."
    short = rated[rated.verdict == WORSE]
    above = len(rated) - len(short)
    text = f"Separated speech beats the mixture in {above} of {len(rated)} settings"
    if short.empty:
        unsure = (rated.verdict == UNSURE).sum()
        return text + (f", in {unsure} of them within the error." if unsure else ".")
    names = [
        f"{corpus(group.condition)} noise with {group.num_speakers} "
        f"speaker{'s' if group.num_speakers > 1 else ''} ({corpus(group.noise_model)} prior)"
        for group in short.itertuples()
    ]
    return f"{text}; it falls short in {', '.join(names)}."


def claims(differences: pandas.DataFrame) -> list[str]:
    """Whether the paper's claim holds here, in one sentence for every trained prior."""
    if differences.empty:
        return []
    sentences = []
    whole = differences.condition == ALL
    for one in differences[whole].itertuples():
        same = (differences.noise_model == one.noise_model) & (differences.who == one.who)
        parts = differences[same & ~whole]
        above = (parts.si_sdr > CLAIMED_DB).sum()
        sentences.append(
            f"The paper's claim that the noise prior beats {noise_model(BASELINE)} by more than "
            f"{CLAIMED_DB:g} dB SI-SDR {CLAIMS[one.verdict]} with {noise_model(one.noise_model)}: "
            f"{signed(one.si_sdr)} ± {number(one.si_sdr_ci)} dB over the same {one.mixtures} "
            f"mixtures of {WHO[one.who]}, above {CLAIMED_DB:g} dB in {above} of {len(parts)} "
            "settings."
        )
    return sentences


def number(value: float, digits: int = 1) -> str:
    """A figure with a proper minus sign, or a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Like `number`, with a plus sign where it is due."""
    return ("+" if value is not None and value > 0 else "") + number(value, digits)


def corpus(name: str) -> str:
    """How a corpus is written."""
    return NAMES.get(name, name)


def noise_model(name: str) -> str:
    """How a noise model is written."""
    return UNTRAINED.get(name) or f"diffusion ({corpus(name)})"


def _comparison(results: Results) -> dict[str, Any] | None:
    """Chart and table of all noise models, or None where only trained priors were used."""
    groups, differences = results.groups, results.differences
    models = list(dict.fromkeys(groups.noise_model))
    if not any(model in UNTRAINED for model in models):
        return None
    by_setting: dict[tuple[str, int, str], dict[str, Any]] = {}
    for group in groups.itertuples():
        setting = group.condition, group.num_speakers, group.who
        by_setting.setdefault(setting, {})[group.noise_model] = group
    pairs = {
        (d.noise_model, d.condition, d.num_speakers, d.who): d for d in differences.itertuples()
    }
    main, names = headline_of(groups), {model: noise_model(model) for model in models}
    ends = [main.si_sdri, main.si_sdri - main.si_sdri_ci, main.si_sdri + main.si_sdri_ci]
    limits = charts.shared_limits(pandas.concat(ends))
    return {
        "models": models,
        "paired": list(dict.fromkeys(model for model, *_ in pairs)),
        "baseline": BASELINE,
        "settings": by_setting,
        "pairs": pairs,
        "claims": claims(differences),
        "charts": [
            Markup(charts.gains_by_noise_model(own, names, f"{corpus(condition)} noise", limits))
            for condition, own in main.groupby("condition", sort=False)
        ],
    }


def _sets(results: Results, groups: pandas.DataFrame) -> list[dict[str, Any]]:
    """Charts and examples of every trained prior on every condition, in the order of `groups`."""
    scores = results.scores
    speech = scores[(scores.source != "noise") & ~scores.noise_model.isin(list(UNTRAINED))]
    speech = speech[stratum(speech.speaker_seen).isin(groups.who)]
    limits = charts.shared_limits(speech.si_sdri)
    sets = dict.fromkeys(zip(groups.noise_model, groups.condition, strict=True))
    return [_set(results.examples, speech, *one, limits) for one in sets]


def _set(
    examples: Sequence[Example],
    speech: pandas.DataFrame,
    prior: str,
    condition: str,
    limits: tuple[float, float],
) -> dict[str, Any]:
    own = speech[(speech.noise_model == prior) & (speech.condition == condition)]
    title = f"{corpus(condition)} noise, {corpus(prior)} prior"
    chosen = [e for e in examples if (e.noise_model, e.condition) == (prior, condition)]
    return {
        "title": title,
        "matched": prior == condition,
        "anchor": f"{prior}-{condition}",
        "by_speakers": Markup(charts.gains_by_speakers(own, title, limits)),
        "by_input": Markup(charts.gains_by_input(own, title, limits)),
        "examples": [_example(example) for example in chosen],
    }


def _example(example: Example) -> dict[str, Any]:
    """Players, spectrograms, figures and trace of one mixture."""
    mixture, rate = example.mixture, example.mixture.sample_rate
    names = source_names(len(mixture.speech))
    references = np.concatenate([mixture.speech, mixture.noise[None]])
    gain, top = loudness_gain(example), float(levels_db(mixture.mixture, rate).max())

    def tile(label: str, signal: np.ndarray, note: str = "") -> dict[str, Any]:
        png, sound = picture(levels_db(signal, rate), top), flac(signal, gain, rate)
        return {
            "label": label,
            "note": note,
            "image": "data:image/png;base64," + base64.b64encode(png).decode(),
            "audio": "data:audio/flac;base64," + base64.b64encode(sound).decode(),
        }

    sources = []
    for name, estimate, reference in zip(names, example.estimates, references, strict=True):
        spoken = name.replace("_", " ").capitalize()
        sources.append(
            {
                "name": spoken,
                "kind": name,
                "estimate": tile(f"{spoken}, estimate", estimate, _note(example.scores[name])),
                "reference": tile(f"{spoken}, reference", reference),
            }
        )
    title = f"{mixture.key}, {corpus(example.noise_model)} prior"
    traced = charts.trace(example.trace, names, title) if example.trace else []
    return {
        "key": mixture.key,
        "why": example.why,
        "facts": example.facts,
        "mixture": tile("Mixture", mixture.mixture),
        "sources": sources,
        "khz": rate / 2000,
        "seconds": len(mixture.mixture) / rate,
        "trace": [Markup(svg) for svg in traced],
    }


def _note(row: Mapping[str, Any]) -> str:
    parts = [f"{number(row['si_sdr'])} dB ({signed(row['si_sdri'])})"]
    if not math.isnan(row["pesq"]):
        parts.append(f"PESQ {number(row['pesq'], 2)}")
    if not math.isnan(row["estoi"]):
        parts.append(f"ESTOI {number(row['estoi'], 2)}")
    return " · ".join(parts)
