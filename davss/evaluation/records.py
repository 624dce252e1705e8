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
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas
import soundfile
from scipy.io import wavfile

from davss.errors import DavssError
from davss.storage import Store, sha256

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
    store: Store,
    name: str,
    record: Mapping[str, Any],
    sources: np.ndarray | None = None,
    trace: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Write a trial's sources (M, T) and trace, if it has any, then its record, below `name` of the
    store; returns the record.
    """
    record = dict(record)
    with store.scratch(str(PurePosixPath(name).parent)) as folder:
        if sources is not None:
            if not np.isfinite(sources).all():
                raise DavssError(f"{record['key']}: separated sources have NaN or infinite samples")
            # Not soundfile: its float files carry the time of writing, and equal estimates must
            # have equal digests.
            audio = np.ascontiguousarray(sources.T, np.float32)
            wavfile.write(folder / "wav", record["sample_rate"], audio)
            record |= {"path": f"{name}.wav", "sha256": sha256(folder / "wav")}
            store.put(folder / "wav", f"{name}.wav")
        if trace:
            arrays = {key: np.asarray(value, np.float32) for key, value in trace.items()}
            np.savez_compressed(folder / "trace.npz", **arrays)  # type: ignore[arg-type]
            store.put(folder / "trace.npz", f"{name}.trace.npz")
        (folder / "json").write_text(json.dumps(record, indent=2) + "\n")
        store.put(folder / "json", f"{name}.json")
    return record


def finished(store: Store, name: str) -> dict[str, Any] | None:
    """The record of a trial whose files are all there and unchanged, else None."""
    if store.stat(f"{name}.json") is None:
        return None
    try:
        with store.open(f"{name}.json") as stream:
            record = json.load(stream)
        whole = set(record) == set(RECORD) and (
            record["path"] is None or store.holds(f"{name}.wav", record["sha256"])
        )
    except (ValueError, TypeError):
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


def read_estimate(store: Store, name: str) -> tuple[np.ndarray, int]:
    """Sources (M, T) of the file `name` and their rate in Hz; DavssError where it is missing or
    broken.
    """
    try:
        if store.stat(name) is None:
            raise FileNotFoundError
        audio, rate = soundfile.read(store.local(name), dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError):
        raise DavssError(
            f"{store.locate(name)}: estimate is missing or broken; set DAVSS_STORAGE, or make it "
            "again with `dvc repro -f -s separate`"
        ) from None
    return audio.T, int(rate)


def read_trace(store: Store, name: str) -> dict[str, np.ndarray] | None:
    """The trace beside the estimate `name`: sigma (N,), likelihood (N,), *_step (N, M) RMS; None
    without one.
    """
    trace = str(PurePosixPath(name).with_suffix(".trace.npz"))
    try:
        if store.stat(trace) is None:
            return None
        with np.load(store.local(trace), allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError):
        return None
