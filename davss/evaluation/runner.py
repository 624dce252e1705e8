"""Runs any plan of trials: on Ray Data actors, or in this process where one worker is all there is.

A block is one batch of trials of one arm that can be stacked. A trial's record is written as soon
as it is separated, and what has one is not done again. What an actor needs (priors, shard
manifests) travels with the job: only the storage must be shared between machines.

B batch, K speakers, T samples, N sampler steps, M = K+1 sources.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas
import torch
from tqdm import tqdm

from davss import cores
from davss.errors import DavssError
from davss.evaluation.batches import batches_of
from davss.evaluation.mixtures import Library
from davss.evaluation.records import COLUMNS, TRACE, finished, make_record, write_record
from davss.evaluation.trials import Arm, Trial, lips_for
from davss.ray_session import cluster_address, ray_running
from davss.storage import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What every actor is given; can be pickled.

    `make_separator(arm, device=)` makes what an arm separates with, which has a `dtype` besides;
    `folders` has by the arm's name where in the storage its files go.
    """

    library: Library
    make_separator: Callable[..., Callable[..., Any]]
    storage: Store
    folders: Mapping[str, str]
    seed: int = 0

    def place(self, trial: Trial) -> str:
        """Where in the storage a trial's files lie, but for their endings."""
        return f"{self.folders[trial.arm.name]}/{trial.name}"


@dataclass(frozen=True)
class Actors:
    """How many, and the threads and GPUs of each."""

    count: int
    threads: int
    num_gpus: int


def run_plan(
    trials: Sequence[Trial],
    job: Job,
    batch_size: int,
    num_actors: int | None = None,
    description: str = "separate",
) -> pandas.DataFrame:
    """Separate what has no record yet; `records.COLUMNS` of all `trials`, in their order.

    `num_actors` defaults to the number of GPUs, else of CPU cores. A trial that diverges has an
    `error`; one that cannot be computed has one too, and is tried again by the next run. Raises
    DavssError when an actor dies, or when every single trial fails.
    """
    records = find_records(trials, job)
    todo = [trial for trial in trials if _id(trial) not in records]
    with tqdm(
        total=len(trials), initial=len(records), desc=description, unit="trial", smoothing=0.1
    ) as bar:
        failed = 0
        for record in _separate_all(todo, job, batch_size, num_actors):
            records[record["arm"], record["name"]] = record
            bar.update()
            if record["error"]:
                failed += 1
                bar.set_postfix(failed=failed)
                bar.write(f"{record['key']} ({record['arm']}): {record['error']}")
    rows = [records[_id(trial)] | {"arm": trial.arm.name} for trial in trials]
    result = pandas.DataFrame(rows, columns=list(COLUMNS))
    if len(result) and result.error.notna().all():
        raise DavssError(f"every mixture failed, the first one so: {result.error.iloc[0]}")
    return result


def find_records(trials: Sequence[Trial], job: Job) -> dict[tuple[str, str], dict[str, Any]]:
    """The records of the trials that are finished, by arm and name."""
    with ThreadPoolExecutor() as pool:  # most of it is the digests of files
        found = pool.map(lambda trial: finished(job.storage, job.place(trial)), trials)
        pairs = zip(map(_id, trials), found, strict=True)
        return {place: record for place, record in pairs if record is not None}


def _id(trial: Trial) -> tuple[str, str]:
    return trial.arm.name, trial.name


def _separate_all(
    todo: Sequence[Trial], job: Job, batch_size: int, num_actors: int | None
) -> Iterator[dict[str, Any]]:
    """Records in the order in which they are ready, with the `arm` and `name` of their trial."""
    if not todo:
        return
    actors = plan_actors(available(), num_actors)
    batches = batches_of(todo, batch_size, actors.count)
    if not cluster_address() and min(actors.count, len(batches)) == 1:
        alone = Separating(job, _arms_of(todo), plan_actors(available(), 1))
        for batch in batches:
            yield from alone.separate(batch[0].arm, [trial.row for trial in batch])
        return
    # Ray's core calls every actor whose arguments are large an error; they live as long as the
    # driver.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with ray_running(actors.count * actors.threads):
        yield from _in_actors(batches, job, actors)


def available() -> Mapping[str, float]:
    """The CPU and GPU that there are: of the cluster that RAY_ADDRESS names, or of this machine."""
    if cluster_address():
        with ray_running(1):
            import ray

            return ray.cluster_resources()
    return {"CPU": cores.count(), "GPU": torch.cuda.device_count()}


def _arms_of(trials: Sequence[Trial]) -> list[Arm]:
    return list(dict.fromkeys(trial.arm for trial in trials))


def plan_actors(resources: Mapping[str, float], num_actors: int | None) -> Actors:
    """Actors for a machine's or a cluster's `resources`: one per GPU, else one per CPU."""
    gpus, cpus = int(resources.get("GPU", 0)), max(int(resources.get("CPU", 1)), 1)
    count = num_actors or gpus or cpus
    return Actors(count, max(cpus // count, 1), int(gpus > 0))


def _in_actors(
    batches: Sequence[Sequence[Trial]], job: Job, actors: Actors
) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Nothing but text crosses Ray's blocks: Arrow has its own views on lists and None.
    blocks = [
        pandas.DataFrame({"arm": [b[0].arm.name], "rows": [json.dumps([t.row for t in b])]})
        for b in batches
    ]
    arms = _arms_of([batch[0] for batch in batches])
    dataset = ray.data.from_pandas(blocks).map_batches(
        Separating,
        batch_size=None,  # a block is a batch
        batch_format="pandas",
        compute=ray.data.ActorPoolStrategy(size=min(actors.count, len(batches))),
        fn_constructor_kwargs={"job": job, "arms": arms, "actors": actors},
        num_cpus=1,
        num_gpus=actors.num_gpus,
    )
    try:
        for done in dataset.iter_batches(batch_size=None, batch_format="pandas"):
            for text in done["records"]:
                yield from json.loads(text)
    except (WorkerCrashedError, OutOfMemoryError, ActorDiedError) as error:
        if "creation task" in str(error):
            raise  # a defect in an actor's start, not a death: keep its stack trace
        raise DavssError(
            f"separation: an actor died ({type(error).__name__}); run the stage again to go on, "
            "with a smaller separation.batch_size or DAVSS_NUM_ACTORS if memory ran out"
        ) from error


class Separating:
    """What an actor does, and the driver where there is none: separates batches, one after another;
    keeps the separator while the arm stays.
    """

    def __init__(self, job: Job, arms: Sequence[Arm], actors: Actors) -> None:
        torch.set_num_threads(actors.threads)
        self.job, self.arms = job, {arm.name: arm for arm in arms}
        self.device = "cuda" if actors.num_gpus else "cpu"
        self.arm: Arm | None = None
        self.separator: Any

    def __call__(self, block: pandas.DataFrame) -> pandas.DataFrame:
        """The records of a block of one batch, as JSON."""
        arm, rows = self.arms[block["arm"].iloc[0]], json.loads(block["rows"].iloc[0])
        return pandas.DataFrame({"records": [json.dumps(self.separate(arm, rows))]})

    def separate(self, arm: Arm, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Records of a batch, with their `arm` and `name`; a mixture that fails spoils no other."""
        try:
            if arm != self.arm:
                self.separator = self.job.make_separator(arm, device=self.device)
                self.arm = arm
            return self._separate(arm, rows)
        except Exception as error:
            if len(rows) > 1:
                return [one for row in rows for one in self.separate(arm, [row])]
            if not isinstance(error, DavssError):
                log.exception("%s", rows[0]["key"])
            record = make_record(rows[0], error=_first_line(error))
            return [record | {"arm": arm.name, "name": Trial(arm, rows[0]).name}]

    def _separate(self, arm: Arm, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        started, job = time.perf_counter(), self.job
        mixtures = [job.library.render(row) for row in rows]
        pairs = zip(rows, mixtures, strict=True)
        seen = [lips_for(arm, row, mixture, job.library) for row, mixture in pairs]
        result = self.separator(
            torch.from_numpy(np.stack([mixture.mixture for mixture in mixtures])),
            lips=None
            if seen[0] is None
            else torch.from_numpy(np.stack([one for one in seen if one is not None])).float(),
            num_speakers=int(rows[0]["num_speakers"]),
            sample_rate=mixtures[0].sample_rate,
            keys=[mixture.key for mixture in mixtures],
            seed=job.seed,
        )
        sources = torch.cat([result.speech, result.noise[:, None]], dim=1).cpu().numpy()
        seconds, done = (time.perf_counter() - started) / len(rows), []
        for index, (row, mixture) in enumerate(zip(rows, mixtures, strict=True)):
            trial = Trial(arm, row)
            place = job.place(trial)
            record = make_record(row, seconds, evaluations=int(result.num_evaluations))
            record["precision"] = str(self.separator.dtype).removeprefix("torch.")
            if result.errors[index]:
                record |= {"error": str(result.errors[index])}
                record = write_record(job.storage, place, record)
            else:
                record |= {
                    "sample_rate": mixture.sample_rate,
                    "residual_db": residual_db(mixture.mixture, sources[index]),
                }
                trace = _trace(result.trace, index)
                record = write_record(job.storage, place, record, sources[index], trace)
            done.append(record | {"arm": arm.name, "name": trial.name})
        return done


def residual_db(mixture: np.ndarray, sources: np.ndarray) -> float:
    """Power of mixture (T,) minus the sum of sources (M, T), relative to the mixture's, in dB."""
    rest = np.square(mixture - sources.sum(axis=0, dtype=np.float64)).sum()
    return float(10 * np.log10(max(rest / np.square(mixture, dtype=np.float64).sum(), 1e-20)))


def _trace(trace: Mapping[str, Any], index: int) -> dict[str, np.ndarray]:
    """One item's part of the trace of a batch: sigma (N,), likelihood (N, B), *_step (N, B, M)."""
    arrays = {name: torch.as_tensor(trace[name]).cpu().numpy() for name in TRACE if name in trace}
    return {name: array if name == "sigma" else array[:, index] for name, array in arrays.items()}


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if isinstance(error, DavssError) else f"{type(error).__name__}: {line}"
