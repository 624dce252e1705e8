"""Scores of anybody's files: a folder of estimates against a folder of references.

Files belong together that have the same path in their folders, but for the ending. A folder or
file named s1, s2, … (or spk1, speaker_1, source1) or noise says which source it holds, and the rest
of the path is the recording's name: DIR/NAME/speaker_1.wav, as `davss separate` writes it, or
DIR/s1/NAME.wav, as LibriMix does. A file without such a name is a recording of one source. Which
estimate is of which speaker is decided by `best_order`. A mixture is MIXTURES/NAME.wav.

M sources, T samples.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from davss.errors import DavssError
from davss.evaluation.metrics import NOISE, best_order, score_sources
from davss.media.audio import read_sound
from davss.media.decoding import SUFFIXES
from davss.processes import in_processes

SOURCE = re.compile(rf"(?:s|spk|speaker|source)_?(\d+)|({NOISE})", re.IGNORECASE)
FACTS = ("name", "source", "estimate", "reference", "seconds", "sample_rate")
WORTH_A_PROCESS = 20  # recordings


@dataclass
class Recording:
    """One recording: the files of its sources by their names, and of its mixture."""

    name: str
    estimates: dict[str, Path] = field(default_factory=dict)
    references: dict[str, Path] = field(default_factory=dict)
    mixture: Path | None = None


@dataclass(frozen=True)
class Signal:
    """Samples (T,) at a rate in Hz, or why there are none."""

    path: Path | None
    samples: np.ndarray = field(default_factory=lambda: np.empty(0))
    rate: int = 0
    problem: str = ""

    def filled(self, length: int) -> np.ndarray:
        """The samples, or as many NaN."""
        return np.full(length, np.nan) if self.problem else self.samples


ABSENT, ALONE = Signal(None, problem="no estimate"), Signal(None, problem="no reference")


def match(estimates: Path, references: Path, mixtures: Path | None = None) -> list[Recording]:
    """All recordings of which there is an estimate or a reference, by name. DavssError where a
    folder is missing or empty, nothing matches, or two files have one place.
    """
    found: dict[str, Recording] = {}
    for folder, attribute in ((estimates, "estimates"), (references, "references")):
        for (name, source), path in _files(folder).items():
            recording = found.setdefault(name, Recording(name))
            getattr(recording, attribute)[source] = path
    if not any(one.estimates and one.references for one in found.values()):
        names = [next(iter(_files(folder)))[0] for folder in (estimates, references)]
        raise DavssError(
            f"{estimates}, {references}: no file has the same name in both, such as {names[0]} and "
            f"{names[1]}; name them alike"
        )
    for (name, _), path in _files(mixtures).items() if mixtures else ():
        if name in found:
            found[name].mixture = path
    return [found[name] for name in sorted(found)]


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """The recordings below a folder by their name and source."""
    if not folder.is_dir():
        raise DavssError(f"{folder}: no such folder; give one that holds recordings")
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in place.parts):
            continue
        key = place_of(place)
        if (other := found.setdefault(key, path)) != path:
            raise DavssError(f"{other}, {path}: both are {' of '.join(key[::-1])}; leave one out")
    if not found:
        raise DavssError(f"{folder}: no recording in this folder; give one that holds some")
    return found


def place_of(place: Path) -> tuple[str, str]:
    """Name and source of a path below its folder; letters with accents may be one character, or
    two, as macOS has them.
    """
    place = Path(unicodedata.normalize("NFC", str(place)))
    parts, source = list(place.with_suffix("").parts), "speaker_1"
    for part in reversed(parts):
        if len(parts) > 1 and (named := SOURCE.fullmatch(part)):
            source = NOISE if named[2] else f"speaker_{int(named[1])}"
            parts.remove(part)
            break
    return "/".join(parts), source


def score_folders(
    recordings: Sequence[Recording],
    *,
    in_order: bool = False,
    perceptual: bool = True,
    listeners: Collection[str] = (),
    num_processes: int = 1,
) -> pandas.DataFrame:
    """A row per source: `FACTS`, the scores of `score_sources`, and `error`: what is wrong with the
    files, where there are no scores, or why some are NaN.

    `in_order` takes speaker_1 for an estimate of speaker_1 instead of the best order.
    """
    work = partial(
        score_recording, in_order=in_order, perceptual=perceptual, listeners=tuple(listeners)
    )
    worth = 2 if listeners else WORTH_A_PROCESS
    found = in_processes(work, recordings, num_processes, "score", "recording", worth)
    rows = pandas.DataFrame([row for rows in found for row in rows])
    order = [*FACTS, *(name for name in rows if name not in (*FACTS, "error")), "error"]
    return rows[order]


def score_recording(
    recording: Recording, in_order: bool, perceptual: bool, listeners: Collection[str]
) -> list[dict[str, Any]]:
    """The rows of one recording, whatever its files hold."""
    estimates = {name: read(path) for name, path in recording.estimates.items()}
    references = {name: read(path) for name, path in recording.references.items()}
    if NOISE not in references:
        estimates.pop(NOISE, None)  # there is nothing to hold it against
    whole = next((one for one in references.values() if not one.problem), Signal(None))
    for signals in (estimates, references):
        signals.update({name: _fitting(one, whole) for name, one in signals.items()})
    pairs = _pair(estimates, references, in_order, len(whole.samples))
    good = {name: pair for name, pair in pairs.items() if not pair[1].problem}
    mixture = _fitting(read(recording.mixture), whole) if recording.mixture else ABSENT
    scores: dict[str, dict[str, Any]] = {}
    if good:
        found, clean = (
            np.stack([pair[side].filled(len(whole.samples)) for pair in good.values()])
            for side in (0, 1)
        )
        rows = score_sources(
            found,
            clean,
            None if mixture.problem else mixture.samples,
            whole.rate,
            names=list(good),
            perceptual=perceptual,
            listeners=listeners,
        )
        scores = dict(zip(good, rows, strict=True))
    return [
        _row(recording, name, pair, mixture, scores.get(name, {}))
        for name, pair in pairs.items()
        if name != NOISE or pair[0].path
    ]


def _row(
    recording: Recording,
    name: str,
    pair: tuple[Signal, Signal],
    mixture: Signal,
    scores: Mapping[str, Any],
) -> dict[str, Any]:
    own = next((one for one in pair[::-1] if not one.problem), Signal(None))
    paths = [None if one.path is None else str(one.path) for one in pair]
    facts = (recording.name, name, *paths, len(own.samples) / (own.rate or 1), own.rate)
    row = dict(zip(FACTS, facts, strict=True)) | dict(scores)
    problems = [one.problem for one in pair if one.problem]
    if not problems:
        about_mixture = mixture.problem if recording.mixture else ""
        problems = [text for text in (row.get("error"), _endless(row), about_mixture) if text]
    return row | {"error": "; ".join(problems) or None}


def _endless(row: Mapping[str, Any]) -> str:
    """What to say of an SI-SDR that no mean can hold."""
    if not np.isinf(row.get("si_sdr", np.nan)):
        return ""
    what = "an exact copy of its reference" if row["si_sdr"] > 0 else "silent"
    return f"{row['estimate']}: {what}; its infinite scores do not count in the means"


def _pair(
    estimates: Mapping[str, Signal], references: Mapping[str, Signal], in_order: bool, length: int
) -> dict[str, tuple[Signal, Signal]]:
    """Of every source its estimate and reference, each of which may have a problem."""
    names = sorted({*estimates, *references}, key=lambda name: (name == NOISE, len(name), name))
    pairs = {name: (estimates.get(name, ABSENT), references.get(name, ALONE)) for name in names}
    speakers = [name for name in names if name != NOISE]
    if in_order or len(speakers) < 2:
        return pairs
    own = [pairs[name] for name in speakers]
    found, clean = (np.stack([pair[side].filled(length) for pair in own]) for side in (0, 1))
    order = best_order(found, clean)
    return pairs | {
        name: (own[k][0], pairs[name][1]) for name, k in zip(speakers, order, strict=True)
    }


def read(path: Path) -> Signal:
    """A file of one channel, or what is wrong with it."""
    try:
        sound = read_sound(path)
    except DavssError as error:
        return Signal(path, problem=str(error))
    if sound.missing:
        return Signal(path, problem=f"{sound.missing}; give whole recordings")
    if len(sound.samples) > 1:
        return Signal(path, problem=f"{path}: {len(sound.samples)} channels; give one channel")
    return Signal(path, sound.samples[0].astype(np.float64), sound.rate)


def _fitting(signal: Signal, whole: Signal) -> Signal:
    """The signal, unless its rate or length is not that of the reference."""
    if signal.problem or whole.path is None:
        return signal
    length, needed = len(signal.samples), len(whole.samples)
    if signal.rate != whole.rate:
        problem = f"{signal.rate} Hz, but {whole.path} has {whole.rate} Hz; resample it"
    elif length != needed:
        problem = f"{length} samples, but {whole.path} has {needed}; cut both to the same stretch"
    else:
        return signal
    return Signal(signal.path, rate=signal.rate, problem=f"{signal.path}: {problem}")


def summary(rows: pandas.DataFrame, metrics: Iterable[str]) -> pandas.DataFrame:
    """Per metric mean, half of its 95 % interval over recordings, median and number of recordings;
    speakers and noise apart.
    """
    from davss.evaluation.statistics import interval, per_mixture

    lines = []
    for kind, own in rows.groupby(rows.source == NOISE):
        for metric in metrics:
            values = per_mixture(own, metric, by="name").dropna()
            if values.empty:
                continue
            found = interval(values)
            line = {"source": NOISE if kind else "speech", "metric": metric, "mean": found.mean}
            line |= {"mean_ci": found.half, "median": values.median(), "recordings": found.items}
            lines.append(line)
    return pandas.DataFrame(lines)
