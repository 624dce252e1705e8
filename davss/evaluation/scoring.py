"""The records of a plan into rows: one per trial and source, with every metric.

The same rows are the base of tables, plots and the report, whatever the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas

from davss.errors import DavssError
from davss.evaluation.metrics import SOURCE_METRICS, score_sources, source_names
from davss.evaluation.mixtures import Library
from davss.evaluation.records import COST, read_estimate
from davss.evaluation.trials import UNTRAINED, Trial
from davss.processes import in_processes
from davss.storage import Store

WORTH_A_PROCESS = 40  # mixtures that take about as long as a process does to start
FACTS = ("arm", "key", "num_speakers", "condition", "damage", "noise_model", "sir_db", "snr_db")
PLACE = ("scene_seen", "source", "pool", "speaker_seen")
COLUMNS = (*FACTS, *PLACE, *SOURCE_METRICS, *COST, "precision", "path", "error")


def score_plan(
    trials: Sequence[Trial],
    records: pandas.DataFrame,
    library: Library,
    storage: Store,
    *,
    perceptual: bool = True,
    num_processes: int = 1,
) -> pandas.DataFrame:
    """Rows of `COLUMNS` of every trial, in their order; `records` are those of `run_plan`.

    `perceptual` False leaves PESQ and ESTOI out, which take most of the time. A trial that failed
    has the reason in `error` and no scores.
    """
    work = partial(score_trial, library=library, storage=storage, perceptual=perceptual)
    pairs = list(zip(trials, records.to_dict("records"), strict=True))
    found = in_processes(work, pairs, num_processes, "score", worth=WORTH_A_PROCESS)
    return pandas.DataFrame([row for rows in found for row in rows], columns=list(COLUMNS))


def score_trial(
    pair: tuple[Trial, Mapping[str, Any]], library: Library, storage: Store, perceptual: bool
) -> list[dict[str, Any]]:
    """The rows of one trial."""
    (trial, record), row = pair, pair[0].row
    about = {name: row.get(name) for name in FACTS if name in row}
    about |= {"arm": trial.arm.name, "noise_model": trial.arm.noise}
    about |= {
        "scene_seen": _scene_seen(trial),
        **{name: record[name] for name in (*COST, "precision", "path")},
    }
    names = source_names(int(row["num_speakers"]))
    unknown = [None] * len(row["pool"])
    speakers = zip(row["pool"], row.get("speaker_seen", unknown), strict=True)
    sources = [
        about | {"source": name, "pool": pool, "speaker_seen": seen}
        for name, (pool, seen) in zip(names, [*speakers, (None, None)], strict=True)
    ]
    if not isinstance(record["path"], str):
        reason = f"separation: {record['error']}"
        return [source | {"error": reason} for source in sources]
    path = storage.locate(record["path"])
    estimates, rate = read_estimate(storage, record["path"])
    mixture = library.render(row)
    if rate != mixture.sample_rate:
        raise DavssError(
            f"{path}: {rate} Hz, but its mixture has {mixture.sample_rate} Hz; run the separate "
            "stage again"
        )
    references = np.concatenate([mixture.speech, mixture.noise[None]])
    try:
        found = score_sources(estimates, references, mixture.mixture, rate, perceptual=perceptual)
    except DavssError as error:
        raise DavssError(f"{path}: {error}") from None
    return [source | scores for source, scores in zip(sources, found, strict=True)]


def _scene_seen(trial: Trial) -> bool | None:
    """Whether the noise prior was trained on the noise's scene; None without a prior, and where the
    corpus names no scenes.
    """
    if trial.arm.peer or trial.arm.noise in UNTRAINED:
        return None
    if trial.arm.noise != trial.row["condition"]:
        return False
    return trial.row.get("scene_seen")
