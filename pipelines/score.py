"""Stage: score the estimates of the noise model NOISE on the mixtures of CONDITION.

    python -m pipelines.score NOISE CONDITION

Writes data/scores/NOISE-CONDITION.parquet, one row per mixture and source. DAVSS_NUM_PROCESSES
sets the number of processes (default: CPU cores).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas
from tqdm import tqdm

from davss.errors import DavssError
from davss.evaluation.estimates import read_estimate, read_manifest
from davss.evaluation.metrics import METRICS, score_sources, source_names
from davss.evaluation.mixtures import render, rows_of
from davss.shards.reader import ShardReader
from davss.storage import publish, shard_store, storage_root
from pipelines import run

SPEECH_CORPUS = "voxceleb2"
WORTH_A_PROCESS = 40  # mixtures that take about as long as a process does to start
FACTS = ("key", "num_speakers", "condition", "noise_model", "sir_db", "snr_db")
COLUMNS = (*FACTS, "source", *METRICS, "error")


def main(argv: list[str] | None = None) -> None:
    """Score all estimates of one noise model and condition."""
    parser = argparse.ArgumentParser(
        prog="pipelines.score", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("noise", help="noise model, as the separate stage was given it")
    parser.add_argument("condition", help="corpus the mixtures' noise comes from: wham, dns")
    parser.add_argument("--params", default="params.yaml", help="settings (default: params.yaml)")
    arguments = parser.parse_args(argv)
    noise, condition = arguments.noise, arguments.condition
    jobs = make_jobs(noise, condition)
    storage = storage_root()
    readers = [
        ShardReader(Path("data/shards") / corpus, shard_store(), "test")
        for corpus in (SPEECH_CORPUS, condition)
    ]
    work = partial(score_mixture, speech=readers[0], noise=readers[1], storage=storage)
    rows = [row for rows in _parallel(work, jobs) for row in rows]
    path = Path("data/scores") / f"{noise}-{condition}.parquet"
    with publish(path) as temporary:
        pandas.DataFrame(rows, columns=list(COLUMNS)).to_parquet(temporary, index=False)
    print(f"{path}: {len(jobs)} mixtures, {len(rows)} sources scored")


def make_jobs(noise: str, condition: str) -> list[dict[str, Any]]:
    """The mixtures of a condition, each with the `path` and `error` of its estimate and its
    `noise_model`.
    """
    mixtures = read_manifest(
        Path("data/mixtures") / f"{condition}.parquet", f"dvc repro mixtures@{condition}"
    )
    path = Path("data/estimates") / f"{noise}-{condition}.parquet"
    stage = f"dvc repro separate@{noise}-{condition}"
    estimates = read_manifest(path, stage).set_index("key")
    missing = sorted(set(mixtures.key) - set(estimates.index))
    if missing:
        raise DavssError(f"{path}: no estimate of mixture {missing[0]}; make it with `{stage}`")
    chosen = estimates.loc[mixtures.key, ["path", "error"]].to_dict("records")
    return [
        {**row, **estimate, "noise_model": noise}
        for row, estimate in zip(rows_of(mixtures), chosen, strict=True)
    ]


def score_mixture(
    job: Mapping[str, Any], speech: ShardReader, noise: ShardReader, storage: Path
) -> list[dict[str, Any]]:
    """Rows of `COLUMNS` of one mixture; only their `error` where it could not be separated."""
    facts = {name: job[name] for name in FACTS}
    if not isinstance(job["path"], str):
        names = source_names(int(job["num_speakers"]))
        return [{**facts, "source": name, "error": f"separation: {job['error']}"} for name in names]
    estimates, rate = read_estimate(storage / job["path"])
    mixture = render(job, speech, noise)
    if rate != mixture.sample_rate:
        raise DavssError(
            f"{storage / job['path']}: {rate} Hz, but its mixture has {mixture.sample_rate} Hz; "
            "run the separate stage again"
        )
    return [{**facts, **row} for row in score_sources(estimates, mixture)]


def _parallel(work: Any, jobs: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """`work` on every job, in their order, in as many processes as are worth their start."""
    count = min(_num_processes(), -(-len(jobs) // WORTH_A_PROCESS))
    bar = partial(tqdm, total=len(jobs), desc="score", unit="mixture")
    if count <= 1:
        yield from bar(map(work, jobs))
        return
    # Not fork: a forked child of a process that has used torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the children: one core each
    with ProcessPoolExecutor(count, context) as pool:
        yield from bar(pool.map(work, jobs, chunksize=4))


def _num_processes() -> int:
    text = os.environ.get("DAVSS_NUM_PROCESSES", str(len(os.sched_getaffinity(0))))
    if not text.isdigit() or int(text) == 0:
        raise DavssError(f"DAVSS_NUM_PROCESSES={text}: give the number of processes, 1 or more")
    return int(text)


if __name__ == "__main__":
    run(main)
