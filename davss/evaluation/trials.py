"""Trials are run here: batches over processes, every result kept as soon as it is there.

A result is a JSON file of FOLDER/ARM/, named by the mixture's key and the digest of its row; ARM
is the digest of all else that decides it. What is there is not done again. A batch is of one arm
and of mixtures with equally many speakers and lips.

Shapes: B batch · K speakers · L of them with lips · V video frames · D feature size · T samples.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from davss.config import digest
from davss.diffusion.guidance import plan_branches
from davss.errors import DavssError
from davss.evaluation.experiments import IN_VIEW, MODELS, Arm, Trial, Voices
from davss.evaluation.metrics import si_sdr
from davss.evaluation.mixtures import Mixture, render
from davss.evaluation.runner import residual_db
from davss.posterior.sampling import evaluations
from davss.profiling.counting import GRADIENT_SAMPLERS
from davss.shards.contract import FPS, frames_of
from davss.shards.reader import ShardReader
from davss.storage import publish

RESULT = {"key", "si_sdr", "si_sdr_mixture", "evaluations", "seconds", "residual_db", "error"}


@dataclass(frozen=True)
class Job:
    """What every process is given; can be pickled. `make_separator(arm)` makes a Separator."""

    make_separator: Callable[[Arm], Callable[..., Any]]
    voices: Voices
    noises: Mapping[str, ShardReader]
    seed: int
    threads: int | None = None


def run_trials(
    trials: Sequence[Trial],
    job: Job,
    folder_of: Callable[[Arm], Path],
    batch_size: int,
    num_processes: int,
    description: str = "",
) -> list[dict[str, Any]]:
    """The result of every trial, in their order; those that are kept already are read.

    A result has `key`, `si_sdr` (K×K: estimates by references, dB), `si_sdr_mixture` (K),
    `evaluations` (of each network), `seconds` (its share of its batch), `residual_db` and `error`
    (None, or why it is silent). Figures that do not exist are None.
    """
    paths = [path_of(trial, folder_of) for trial in trials]
    results = {path: found for path in paths if (found := kept(path)) is not None}
    todo = [(trial, path) for trial, path in zip(trials, paths, strict=True) if path not in results]
    batches = batches_of(todo, batch_size)
    with tqdm(total=len(trials), initial=len(results), desc=description, unit="trial") as bar:
        for batch in _work(batches, job, num_processes):
            for path, result in batch:
                with publish(path) as temporary:
                    temporary.write_text(json.dumps(result) + "\n")
                results[path] = result
                if result["error"]:
                    bar.write(f"{result['key']}: {result['error']}")
            bar.update(len(batch))
    return [results[path] for path in paths]


def path_of(trial: Trial, folder_of: Callable[[Arm], Path]) -> Path:
    """Where the result of a trial is kept."""
    return folder_of(trial.arm) / f"{trial.row['key']}-{digest(trial.row)}.json"


def kept(path: Path) -> dict[str, Any] | None:
    """A result that is there and whole, else None."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and set(result) == RESULT else None


Batch = list[tuple[Trial, Path]]
Done = list[tuple[Path, dict[str, Any]]]


def batches_of(todo: Batch, batch_size: int) -> list[Batch]:
    """Trials that can be stacked, the costliest batches first, so that none comes last."""
    groups: dict[Any, Batch] = {}
    for trial, path in todo:
        row = trial.row
        groups.setdefault((trial.arm, *_shape(row)), []).append((trial, path))
    batches = [
        group[start : start + batch_size]
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]
    return sorted(batches, key=lambda batch: -sum(calls(trial) for trial, _ in batch))


def _shape(row: Mapping[str, Any]) -> tuple[int, int, float]:
    return row["num_speakers"], row["pool"].count(IN_VIEW), row["seconds"]


def calls(trial: Trial) -> int:
    """What a trial costs in forward passes of one source through a network; a gradient counts as
    two more.
    """
    sampler, row = trial.arm.sampler, trial.row
    seen = row["pool"].count(IN_VIEW) if trial.arm.lips != "none" else 0
    signals = plan_branches(row["num_speakers"], seen, sampler).total
    signals += trial.arm.noise not in MODELS
    return evaluations(sampler) * signals * (3 if sampler.name in GRADIENT_SAMPLERS else 1)


def _work(batches: Sequence[Batch], job: Job, num_processes: int) -> Iterator[Done]:
    """Results in the order in which they are ready; with one process, in this one."""
    if num_processes == 1 or len(batches) < 2:
        worker = Worker(job)
        yield from map(worker, batches)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(num_processes, context, _begin, (job,))
    try:
        futures = [pool.submit(_call, batch) for batch in batches]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Worker | None = None


def _begin(job: Job) -> None:
    global _worker
    _worker = Worker(job)


def _call(batch: Batch) -> Done:
    assert _worker is not None
    return _worker(batch)


class Worker:
    """Separates and scores batches; keeps the separator of the last arm."""

    def __init__(self, job: Job) -> None:
        self.job = job
        if job.threads:
            torch.set_num_threads(job.threads)
        self.arm: Arm | None = None
        self.separator: Callable[..., Any]

    def __call__(self, batch: Batch) -> Done:
        """The results of a batch of one arm."""
        trials, paths = zip(*batch, strict=True)
        if trials[0].arm != self.arm:
            self.separator = self.job.make_separator(trials[0].arm)
            self.arm = trials[0].arm
        return list(zip(paths, self.separate(trials), strict=True))

    def separate(self, trials: Sequence[Trial]) -> list[dict[str, Any]]:
        """The results of trials that are separated together."""
        begin = time.perf_counter()
        mixtures = [self.render(trial.row) for trial in trials]
        arm, rows = trials[0].arm, [trial.row for trial in trials]
        seen = [lips_for(arm, row, self.job.voices) for row in rows]
        result = self.separator(
            torch.from_numpy(np.stack([mixture.mixture for mixture in mixtures])),
            lips=None
            if seen[0] is None
            else torch.from_numpy(np.stack([one for one in seen if one is not None])).float(),
            num_speakers=rows[0]["num_speakers"],
            sample_rate=rows[0]["sample_rate"],
            keys=[row["key"] for row in rows],
            seed=self.job.seed,
        )
        sources = torch.cat([result.speech, result.noise[:, None]], dim=1).cpu().numpy()
        seconds = round((time.perf_counter() - begin) / len(trials), 3)
        about = {"evaluations": int(result.num_evaluations), "seconds": seconds}
        return [
            {"key": mixture.key, **about, **scores(mixture, found, error)}
            for mixture, found, error in zip(mixtures, sources, result.errors, strict=True)
        ]

    def render(self, row: dict[str, Any]) -> Mixture:
        """The signals of a row."""
        return render(row, self.job.voices, self.job.noises[row["condition"]])


def lips_for(arm: Arm, row: dict[str, Any], voices: Voices) -> np.ndarray | None:
    """What an arm sees, (L, V, D): of the speakers in view their own lips, late ones, or those of
    a wrong clip; None where it sees nothing. Frames beyond a clip's ends repeat its last.
    """
    seen = row["pool"].count(IN_VIEW)
    if arm.lips == "none" or not seen:
        return None
    places = list(zip(row["speech_keys"], row["speech_offsets"], strict=True))
    if arm.lips == "wrong":
        places = row["wrong"]
    num_frames = frames_of(round(row["seconds"] * row["sample_rate"]), row["sample_rate"])
    shift = round(arm.shift * FPS)
    found = []
    for key, first in places[:seen]:
        features = voices[key].lips
        if features is None:
            raise DavssError(f"{key}: has no lips; build shards anew")
        frames = np.arange(first - shift, first - shift + num_frames)
        found.append(features[frames.clip(0, len(features) - 1)])
    return np.stack(found)


def scores(mixture: Mixture, sources: np.ndarray, error: str | None) -> dict[str, Any]:
    """SI-SDR of every estimate, sources (K+1, T), against every speaker, and of the mixture."""
    speech = torch.from_numpy(mixture.speech).double()
    found = torch.from_numpy(sources[:-1]).double()
    matrix = si_sdr(found[:, None], speech[None])
    before = si_sdr(torch.from_numpy(mixture.mixture).double().expand_as(speech), speech)
    return {
        "si_sdr": [[_figure(value) for value in line] for line in matrix.tolist()],
        "si_sdr_mixture": [_figure(value) for value in before.tolist()],
        "residual_db": _figure(residual_db(mixture.mixture, sources)),
        "error": error,
    }


def _figure(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
