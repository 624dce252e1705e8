"""The files of one separated mixture: the runner writes them, scores and report read them.

KEY.wav (float32, channels speaker_1 … speaker_K, noise), KEY.trace.npz (how the sampler went) and
KEY.json (what is known about it, with the wav's sha256), which is written last: a mixture is
finished when KEY.json agrees with KEY.wav. K speakers, T samples, N sampler steps, M = K+1
sources.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import soundfile
from scipy.io import wavfile

from davss.errors import DavssError
from davss.storage import publish, sha256

# One row of an estimates manifest; `path` is relative to the storage, `seconds_taken` a mixture's
# share of its batch.
COLUMNS = (
    "key",
    "num_speakers",
    "path",
    "sha256",
    "sample_rate",
    "seconds_taken",
    "evaluations",
    "residual_db",
    "error",
)
TRACE = ("sigma", "likelihood", "prior_step", "likelihood_step")


def write_estimate(
    folder: Path, sources: np.ndarray, trace: Mapping[str, np.ndarray], row: Mapping[str, Any]
) -> dict[str, Any]:
    """Write sources (M, T) and the trace under `row`'s key; returns `row` with its sha256."""
    key = row["key"]
    if not np.isfinite(sources).all():
        raise DavssError(f"{key}: separated sources have NaN or infinite samples")
    with publish(folder / f"{key}.wav") as temporary:
        # Not soundfile: its float files carry the time of writing, and equal estimates must have
        # equal digests.
        wavfile.write(temporary, row["sample_rate"], np.ascontiguousarray(sources.T, np.float32))
    with publish(folder / f"{key}.trace.npz") as temporary, open(temporary, "wb") as stream:
        arrays = {name: np.asarray(trace[name], np.float32) for name in TRACE if name in trace}
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    row = {**row, "sha256": sha256(folder / f"{key}.wav")}
    with publish(folder / f"{key}.json") as temporary:
        temporary.write_text(json.dumps(row, indent=2) + "\n")
    return row


def finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The row of a mixture whose files are all there and unchanged, else None."""
    try:
        row = json.loads((folder / f"{key}.json").read_text())
        whole = (
            set(row) == set(COLUMNS)
            and (folder / f"{key}.trace.npz").is_file()
            and row["sha256"] == sha256(folder / f"{key}.wav")
        )
    except (OSError, ValueError, TypeError):
        return None
    return row if whole else None


def read_manifest(path: Path, make: str) -> pandas.DataFrame:
    """A parquet file of the experiment; DavssError with the command `make` that writes it where it
    is missing.
    """
    if not path.is_file():
        raise DavssError(f"{path}: no such file; make it with `{make}`")
    try:
        return pandas.read_parquet(path)
    except (OSError, ValueError):
        raise DavssError(
            f"{path}: not a readable parquet file; make it again with `{make}`"
        ) from None


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
