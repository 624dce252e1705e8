"""Stage: separate the mixtures of CONDITION with the speech prior and the noise model NOISE.

    python -m pipelines.separate NOISE CONDITION [--params params.yaml]

NOISE is the corpus a noise prior was trained on, or a model without training: nmf, gaussian, none.
Estimates go to $DAVSS_STORAGE/estimates/DIGEST (or ./storage), where an interrupted run goes on,
and the manifest that names them by sha256 to data/estimates/NOISE-CONDITION.parquet.
DAVSS_NUM_ACTORS sets the number of Ray actors (default: GPUs, else CPU cores), RAY_ADDRESS the
cluster to run on.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

from davss import config
from davss.code import code_digest
from davss.config import NoiseModel, SamplerConfig, SeparationConfig, load_section
from davss.diffusion.prior import NoisePrior, SpeechPrior, load_prior
from davss.errors import DavssError
from davss.evaluation.estimates import read_manifest
from davss.evaluation.mixtures import render
from davss.evaluation.runner import SeparationJob, run_separation
from davss.posterior.separator import Separator
from davss.shards.reader import ShardReader
from davss.storage import publish, sha256, shard_store, storage_root
from pipelines import run

SPEECH, SPEECH_CORPUS = "speech", "voxceleb2"
PRIORS = Path("data/priors")
UNTRAINED: tuple[NoiseModel, ...] = get_args(NoiseModel)


def main(argv: list[str] | None = None) -> None:
    """Separate all mixtures of one condition with one noise model."""
    parser = argparse.ArgumentParser(
        prog="pipelines.separate", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "noise", help="corpus a noise prior was trained on (wham, dns), or nmf, gaussian, none"
    )
    parser.add_argument("condition", help="corpus the mixtures' noise comes from: wham, dns")
    parser.add_argument("--params", default="params.yaml", help="settings (default: params.yaml)")
    arguments = parser.parse_args(argv)
    noise, condition = arguments.noise, arguments.condition
    sampler = load_section(arguments.params, "sampler", SamplerConfig)
    execution = load_section(arguments.params, "separation", SeparationConfig)
    seed = load_section(arguments.params, "seed", int)
    actors = num_actors()
    mixtures = Path("data/mixtures") / f"{condition}.parquet"
    manifest = read_manifest(mixtures, f"dvc repro mixtures@{condition}")
    job = make_job(noise, condition, sampler, seed, sha256(mixtures), execution)
    estimates = run_separation(manifest, job, execution.batch_size, actors)
    path = Path("data/estimates") / f"{noise}-{condition}.parquet"
    with publish(path) as temporary:
        estimates.to_parquet(temporary, index=False)
    failed = int(estimates.error.notna().sum())
    print(f"{path}: {len(estimates) - failed} mixtures separated, {failed} failed, in {job.folder}")


def make_job(
    noise: str,
    condition: str,
    sampler: SamplerConfig,
    seed: int,
    mixtures: str,
    execution: SeparationConfig | None = None,
) -> SeparationJob:
    """What the actors need; every piece is read and checked before anything starts.

    `mixtures` is the sha256 of the manifest: it names the folder together with all else that
    decides the estimates.
    """
    storage = storage_root().resolve()
    speech_prior = read_prior(PRIORS / SPEECH, SpeechPrior, "train_speech")
    noise_prior, used = read_noise_model(noise)
    readers = [
        ShardReader(Path("data/shards") / corpus, shard_store(), "test")
        for corpus in (SPEECH_CORPUS, condition)
    ]
    shards = [sorted(set(reader.clips.shard)) for reader in readers]
    inputs = [mixtures, shards, contents(PRIORS / SPEECH), used]
    digest = config.digest(sampler, seed, inputs, code_digest("pipelines.separate"))
    return SeparationJob(
        render=partial(render, speech=readers[0], noise=readers[1]),
        make_separator=partial(
            Separator, speech_prior, noise_prior, sampler=sampler, execution=execution
        ),
        storage=storage,
        folder=storage / "estimates" / digest,
        seed=seed,
    )


def read_noise_model(noise: str) -> tuple[NoisePrior | NoiseModel, list[str]]:
    """What the separator takes as its noise prior, and what names it in a digest."""
    for model in UNTRAINED:
        if model == noise:
            return model, [model]
    prior = read_prior(PRIORS / noise, NoisePrior, f"train_noise@{noise}")
    return prior, contents(PRIORS / noise)


Prior = TypeVar("Prior", SpeechPrior, NoisePrior)


def read_prior(folder: Path, kind: type[Prior], stage: str) -> Prior:
    """The prior in `folder`, which must be of the right kind; `stage` is what trains it."""
    if not (folder / "config.json").is_file():
        raise DavssError(f"{folder}: no trained prior there; make it with `dvc repro {stage}`")
    prior = load_prior(folder)
    if not isinstance(prior, kind):
        raise DavssError(f"{folder}: holds a {prior.kind} prior, not a {kind.kind} prior; move it")
    return prior


def contents(folder: Path) -> list[str]:
    """The sha256 of every file of a prior."""
    return [sha256(path) for path in sorted(folder.iterdir())]


def num_actors() -> int | None:
    """What DAVSS_NUM_ACTORS says; DavssError unless that is a number."""
    text = os.environ.get("DAVSS_NUM_ACTORS")
    if text is None:
        return None
    if not text.isdigit() or int(text) == 0:
        raise DavssError(f"DAVSS_NUM_ACTORS={text}: give the number of Ray actors, 1 or more")
    return int(text)


if __name__ == "__main__":
    run(main)
