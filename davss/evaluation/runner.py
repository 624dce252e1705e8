"""Separation of all mixtures of a manifest by Ray Data actors; what is finished is not done again.

A block is one batch of mixtures with the same number of speakers, so that they can be stacked.
What an actor needs (priors, shard manifests) travels with the job: only the storage must be shared
between machines. B batch, K speakers, T samples, N sampler steps, M = K+1 sources.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from tqdm import tqdm

from davss.errors import DavssError
from davss.evaluation.estimates import COLUMNS, TRACE, finished, write_estimate
from davss.evaluation.mixtures import Mixture, rows_of
from davss.ray_session import ray_running

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeparationJob:
    """What every actor is given; can be pickled.

    `render(row)` makes the Mixture of a manifest row, `make_separator(device=)` the Separator of
    an actor; estimates go to `folder`, an absolute path below `storage`.
    """

    render: Callable[[Mapping[str, Any]], Mixture]
    make_separator: Callable[..., Callable[..., Any]]
    storage: Path
    folder: Path
    seed: int = 0


@dataclass(frozen=True)
class Workers:
    """Actors, and the threads and GPUs of each."""

    count: int
    threads: int
    num_gpus: int


def run_separation(
    manifest: pandas.DataFrame, job: SeparationJob, batch_size: int, num_actors: int | None = None
) -> pandas.DataFrame:
    """Separate what is not finished of `manifest`; rows of `estimates.COLUMNS` for all of it.

    `num_actors` defaults to the number of GPUs, else of CPU cores. An item that fails has an
    `error` and is tried again by the next run. Raises DavssError when an actor dies, or when every
    single item fails.
    """
    rows = {key: row for key in manifest.key if (row := finished(job.folder, key))}
    todo = manifest[~manifest.key.isin(list(rows))]
    with tqdm(total=len(manifest), initial=len(rows), desc="separate", unit="mixture") as bar:
        for row in _separate_all(todo, job, batch_size, num_actors) if len(todo) else ():
            rows[row["key"]] = row
            bar.update()
            if row["error"]:
                bar.write(f"{row['key']}: {row['error']}")
    result = pandas.DataFrame([rows[key] for key in manifest.key], columns=list(COLUMNS))
    if len(result) and result.error.notna().all():
        raise DavssError(f"every mixture failed, the first one so: {result.error.iloc[0]}")
    return result


def batches_of(manifest: pandas.DataFrame, batch_size: int, num_actors: int) -> list[list[str]]:
    """Keys in batches of one K each; most speakers first, so that no long batch comes last."""
    batches: list[list[str]] = []
    for _, rows in sorted(manifest.groupby("num_speakers"), reverse=True, key=lambda item: item[0]):
        keys = list(rows.key)
        # Few mixtures: smaller batches, so that all actors have work.
        size = max(1, min(batch_size, -(-len(keys) // num_actors)))
        batches += [keys[start : start + size] for start in range(0, len(keys), size)]
    return batches


def _separate_all(
    todo: pandas.DataFrame, job: SeparationJob, batch_size: int, num_actors: int | None
) -> Iterator[dict[str, Any]]:
    """Rows in the order in which they are ready."""
    cores = len(os.sched_getaffinity(0))
    # Ray's core calls every actor whose arguments are large an error; they live as long as the
    # driver.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with ray_running(max(cores, num_actors or 1)):
        import ray
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        workers = _plan_workers(ray.cluster_resources(), num_actors, cores)
        batches = batches_of(todo, batch_size, workers.count)
        blocks = [pandas.DataFrame({"key": keys}) for keys in batches]
        dataset = ray.data.from_pandas(blocks).map_batches(
            SeparationActor,
            batch_size=None,  # a block is a batch
            batch_format="pandas",
            compute=ray.data.ActorPoolStrategy(size=min(workers.count, len(batches))),
            fn_constructor_kwargs={"job": job, "rows": list(rows_of(todo)), "workers": workers},
            num_cpus=1,
            num_gpus=workers.num_gpus,
        )
        yield from _rows_when_ready(dataset)


def _rows_when_ready(dataset: Any) -> Iterator[dict[str, Any]]:
    from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError

    try:
        for done in dataset.iter_batches(batch_size=None, batch_format="pandas"):
            # Nothing but text and numbers crosses Ray's blocks: "" stands for None there.
            yield from done.replace("", None).to_dict("records")
    except (WorkerCrashedError, OutOfMemoryError, ActorDiedError) as error:
        if "creation task" in str(error):
            raise  # a defect in an actor's start, not a death: keep its stack trace
        raise DavssError(
            f"separation: an actor died ({type(error).__name__}); run the stage again to go on, "
            "with a smaller separation.batch_size or DAVSS_NUM_ACTORS if memory ran out"
        ) from error


def _plan_workers(resources: Mapping[str, float], num_actors: int | None, cores: int) -> Workers:
    """Actors for Ray's `resources`; on this machine Ray is told of more CPUs than there are."""
    gpus = int(resources.get("GPU", 0))
    cpus = int(resources.get("CPU", 1)) if "RAY_ADDRESS" in os.environ else cores
    count = num_actors or gpus or max(cpus, 1)
    return Workers(count, max(cpus // count, 1), int(gpus > 0))


class SeparationActor:
    """A Ray actor: makes its separator once, then separates the batches it is given."""

    def __init__(
        self, job: SeparationJob, rows: Sequence[dict[str, Any]], workers: Workers
    ) -> None:
        torch.set_num_threads(workers.threads)
        self.job = job
        self.rows = {row["key"]: row for row in rows}
        self.separator = self.job.make_separator(device="cuda" if workers.num_gpus else "cpu")

    def __call__(self, batch: pandas.DataFrame) -> pandas.DataFrame:
        """Estimates of a block of keys, as rows."""
        rows = separate_batch([self.rows[key] for key in batch["key"]], self.job, self.separator)
        return pandas.DataFrame(
            [{k: "" if v is None else v for k, v in row.items()} for row in rows]
        )


def separate_batch(
    rows: Sequence[Mapping[str, Any]], job: SeparationJob, separator: Callable[..., Any]
) -> list[dict[str, Any]]:
    """Render, separate and write mixtures of one K; one that fails spoils no other."""
    try:
        return _separate_batch(rows, job, separator)
    except Exception as error:
        if len(rows) > 1:
            return [row for one in rows for row in separate_batch([one], job, separator)]
        if not isinstance(error, DavssError):
            log.exception("%s", rows[0]["key"])
        return [_row(rows[0], error=_first_line(error))]


def _separate_batch(
    rows: Sequence[Mapping[str, Any]], job: SeparationJob, separator: Callable[..., Any]
) -> list[dict[str, Any]]:
    started = time.perf_counter()
    mixtures = [job.render(row) for row in rows]
    lips = [mixture.lips for mixture in mixtures]
    result = separator(
        torch.from_numpy(np.stack([mixture.mixture for mixture in mixtures])),
        lips=None
        if any(one is None for one in lips)
        else torch.from_numpy(np.stack([one for one in lips if one is not None])).float(),
        num_speakers=int(rows[0]["num_speakers"]),
        sample_rate=mixtures[0].sample_rate,
        keys=[mixture.key for mixture in mixtures],
        seed=job.seed,
    )
    sources = torch.cat([result.speech, result.noise[:, None]], dim=1).cpu().numpy()  # (B, M, T)
    seconds = (time.perf_counter() - started) / len(rows)
    done = []
    for index, (row, mixture) in enumerate(zip(rows, mixtures, strict=True)):
        if result.errors[index]:
            done.append(_row(row, seconds, error=str(result.errors[index])))
            continue
        row = _row(
            row,
            seconds,
            path=str((job.folder / f"{row['key']}.wav").relative_to(job.storage)),
            sample_rate=mixture.sample_rate,
            evaluations=int(result.num_evaluations),
            residual_db=residual_db(mixture.mixture, sources[index]),
        )
        done.append(write_estimate(job.folder, sources[index], _trace(result.trace, index), row))
    return done


def residual_db(mixture: np.ndarray, sources: np.ndarray) -> float:
    """Power of mixture (T,) minus the sum of sources (M, T), relative to the mixture's, in dB."""
    rest = np.square(mixture - sources.sum(axis=0, dtype=np.float64)).sum()
    return float(10 * np.log10(max(rest / np.square(mixture, dtype=np.float64).sum(), 1e-20)))


def _trace(trace: Mapping[str, Any], index: int) -> dict[str, np.ndarray]:
    """One item's part of the trace of a batch: sigma (N,), likelihood (N, B), *_step (N, B, M)."""
    arrays = {name: torch.as_tensor(trace[name]).cpu().numpy() for name in TRACE if name in trace}
    return {name: array if name == "sigma" else array[:, index] for name, array in arrays.items()}


def _row(
    row: Mapping[str, Any],
    seconds: float = 0.0,
    *,
    path: str | None = None,
    sample_rate: int = 0,
    evaluations: int = 0,
    residual_db: float = float("nan"),
    error: str | None = None,
) -> dict[str, Any]:
    return {
        "key": row["key"],
        "num_speakers": int(row["num_speakers"]),
        "path": path,
        "sha256": None,
        "sample_rate": sample_rate,
        "seconds_taken": round(seconds, 3),
        "evaluations": evaluations,
        "residual_db": residual_db,
        "error": error,
    }


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if isinstance(error, DavssError) else f"{type(error).__name__}: {line}"
