"""The files of one finished trial: the runner writes them, scores and report read them.

NAME.wav (float32, channels speaker_1 … speaker_K, noise), NAME.trace.npz (how the sampler went; a
peer has none) and NAME.json (what is known about it, with the wav's sha256), which is written last:
a trial is finished when NAME.json agrees with NAME.wav. One that diverged has NAME.json alone,
with the reason. K speakers, T samples, N sampler steps, M = K+1 sources.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import soundfile
from scipy.io import wavfile

from davss.errors import DavssError
from davss.storage import publish, sha256

# What is known of a trial; `path` is relative to the storage, `precision` that of the networks,
# `seconds_taken` its share of its batch. A manifest has the arm before it.
RECORD = (
    "key",
    "num_speakers",
    "path",
    "sha256",
    "sample_rate",
    "precision",
    "seconds_taken",
    "evaluations",
    "residual_db",
    "error",
)
COLUMNS = ("arm", *RECORD)
COST = ("evaluations", "seconds_taken", "residual_db")
TRACE = ("sigma", "likelihood", "prior_step", "likelihood_step")


def make_record(row: Mapping[str, Any], seconds: float = 0.0, **known: Any) -> dict[str, Any]:
    """The record of a mixture's row; what is not `known` has no value."""
    record = dict.fromkeys(RECORD) | {"sample_rate": 0, "evaluations": 0, "residual_db": math.nan}
    record |= {"key": row["key"], "num_speakers": int(row["num_speakers"])}
    return record | {"seconds_taken": round(seconds, 3)} | known


def write_record(
    folder: Path,
    name: str,
    record: Mapping[str, Any],
    sources: np.ndarray | None = None,
    trace: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Write a trial's sources (M, T) and trace, if it has any, then its record; returns that."""
    record = dict(record)
    if sources is not None:
        if not np.isfinite(sources).all():
            raise DavssError(f"{record['key']}: separated sources have NaN or infinite samples")
        with publish(folder / f"{name}.wav") as temporary:
            # Not soundfile: its float files carry the time of writing, and equal estimates must
            # have equal digests.
            audio = np.ascontiguousarray(sources.T, np.float32)
            wavfile.write(temporary, record["sample_rate"], audio)
        record["sha256"] = sha256(folder / f"{name}.wav")
    if trace:
        with publish(folder / f"{name}.trace.npz") as temporary, open(temporary, "wb") as stream:
            arrays = {key: np.asarray(value, np.float32) for key, value in trace.items()}
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    with publish(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return record


def finished(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of a trial whose files are all there and unchanged, else None."""
    try:
        record = json.loads((folder / f"{name}.json").read_text())
        whole = set(record) == set(RECORD) and (
            record["path"] is None or record["sha256"] == sha256(folder / f"{name}.wav")
        )
    except (OSError, ValueError, TypeError):
        return None
    return record if whole else None


def read_manifest(path: Path, make: str, columns: Iterable[str] = ()) -> pandas.DataFrame:
    """A parquet file of the experiment; DavssError with the command `make` that writes it where it
    is missing, broken, or lacks one of `columns`.
    """
    if not path.is_file():
        raise DavssError(f"{path}: no such file; make it with `{make}`")
    try:
        found = pandas.read_parquet(path)
    except (OSError, ValueError):
        raise DavssError(
            f"{path}: not a readable parquet file; make it again with `{make}`"
        ) from None
    missing = [name for name in columns if name not in found]
    if missing:
        raise DavssError(
            f"{path}: written by another version, without {missing[0]}; make it again with `{make}`"
        )
    return found


def read_estimate(path: Path) -> tuple[np.ndarray, int]:
    """Sources (M, T) and their rate in Hz; DavssError where the file is missing or broken."""
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError):
        raise DavssError(
            f"{path}: estimate is missing or broken; set DAVSS_STORAGE, or make it again with "
            "`dvc repro -f -s separate`"
        ) from None
    return audio.T, int(rate)


def read_trace(path: Path) -> dict[str, np.ndarray] | None:
    """The trace beside the estimate `path`: sigma (N,), likelihood (N,), *_step (N, M) RMS; None
    without one.
    """
    try:
        with np.load(path.with_suffix(".trace.npz"), allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError):
        return None
