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
from davss.evaluation.report.summary import BETTER, NONE, UNSURE, WORSE, Group

HERE = Path(__file__).parent
NAMES = {"wham": "WHAM!", "dns": "DNS"}
VERDICTS = {
    BETTER: "beats the mixture",
    UNSURE: "within error of the mixture",
    WORSE: "falls short of the mixture",
    NONE: "nothing was scored",
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
    """All that the page shows; `training` by prior name has the columns of history.csv."""

    header: Header
    scores: pandas.DataFrame
    groups: Sequence[Group]
    examples: Sequence[Example]
    training: Mapping[str, pandas.DataFrame] = field(default_factory=dict)


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
    sets = [_set(results, prior, condition) for prior, condition in _sets(results)]
    return environment.get_template("template.html.j2").render(
        style=Markup((HERE / "style.css").read_text()),
        script=Markup((HERE / "player.js").read_text()),
        header=results.header,
        groups=results.groups,
        verdicts=VERDICTS,
        headline=headline(results.groups),
        mixtures=sum(group.mixtures for group in results.groups),
        failed=sum(group.failed for group in results.groups),
        sets=sets,
        training=[
            [Markup(svg) for svg in charts.training(history, corpus(name))]
            for name, history in results.training.items()
        ],
        scale=[f"rgb({r} {g} {b})" for r, g, b in palette()[:: len(palette()) // 12].tolist()],
        range_db=round(RANGE_DB),
    )


def headline(groups: Sequence[Group]) -> str:
    """The result in one sentence."""
    rated = [group for group in groups if group.verdict != NONE]
    if not rated:
        return "No mixture has been scored."
    short = [group for group in rated if group.verdict == WORSE]
    above = len(rated) - len(short)
    text = f"Separated speech beats the mixture in {above} of {len(rated)} settings"
    if not short:
        unsure = sum(group.verdict == UNSURE for group in rated)
        return text + (f", in {unsure} of them within the error." if unsure else ".")
    names = [
        f"{corpus(group.condition)} noise with {group.num_speakers} "
        f"speaker{'s' if group.num_speakers > 1 else ''} ({corpus(group.prior)} prior)"
        for group in short
    ]
    return f"{text}; it falls short in {', '.join(names)}."


def number(value: float, digits: int = 1) -> str:
    """A figure with a proper minus sign, or a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Like `number`, with a plus sign where it is due."""
    return ("+" if value > 0 else "") + number(value, digits)


def corpus(name: str) -> str:
    """How a corpus is written."""
    return NAMES.get(name, name)


def _sets(results: Results) -> list[tuple[str, str]]:
    return list(dict.fromkeys((group.prior, group.condition) for group in results.groups))


def _set(results: Results, prior: str, condition: str) -> dict[str, Any]:
    """Charts and examples of one noise prior on one condition."""
    scores = results.scores
    speech = scores[scores.source != "noise"]
    own = speech[(speech.prior == prior) & (speech.condition == condition)]
    title = f"{corpus(condition)} noise, {corpus(prior)} prior"
    limits = charts.shared_limits(speech.si_sdri)
    chosen = [e for e in results.examples if (e.prior, e.condition) == (prior, condition)]
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
    title = f"{mixture.key}, {corpus(example.prior)} prior"
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
