"""Stage: separate the mixtures of CONDITION with the speech prior and the noise model NOISE.

    python -m pipelines.separate NOISE CONDITION [--params params.yaml]

NOISE is the corpus a noise prior was trained on, or a model without training: nmf, gaussian, none.
Estimates go to $DAVSS_STORAGE/estimates/DIGEST (or ./storage), where an interrupted run goes on,
and the manifest that names them by sha256 to data/estimates/NOISE-CONDITION.parquet.
DAVSS_NUM_ACTORS sets the number of Ray actors (default: GPUs, else CPU cores; 1 needs no Ray),
RAY_ADDRESS the cluster to run on.
"""

from __future__ import annotations

from pathlib import Path

from davss.config import SamplerConfig, SeparationConfig, load_section
from davss.evaluation.runner import run_plan
from davss.evaluation.trials import Arm, Trial, cross
from davss.storage import publish
from pipelines import run, stage_parser
from pipelines.clips import open_library, read_mixtures
from pipelines.evaluating import make_job, num_actors


def main(argv: list[str] | None = None) -> None:
    """Separate all mixtures of one condition with one noise model."""
    parser = stage_parser("separate", __doc__)
    parser.add_argument(
        "noise", help="corpus a noise prior was trained on (wham, dns), or nmf, gaussian, none"
    )
    parser.add_argument("condition", help="corpus the mixtures' noise comes from: wham, dns")
    arguments = parser.parse_args(argv)
    noise, condition = arguments.noise, arguments.condition
    sampler = load_section(arguments.params, "sampler", SamplerConfig)
    execution = load_section(arguments.params, "separation", SeparationConfig)
    seed = load_section(arguments.params, "seed", int)
    actors = num_actors()
    trials = plan(noise, condition, sampler)
    library = open_library(condition)
    job = make_job([trials[0].arm], library, seed, execution)
    estimates = run_plan(trials, job, execution.batch_size, actors)
    path = Path("data/estimates") / f"{noise}-{condition}.parquet"
    with publish(path) as temporary:
        estimates.to_parquet(temporary, index=False)
    failed = int(estimates.error.notna().sum())
    print(
        f"{path}: {len(estimates) - failed} mixtures separated, {failed} failed, in "
        f"{job.storage.locate(job.folders[noise])}"
    )


def plan(noise: str, condition: str, sampler: SamplerConfig) -> list[Trial]:
    """All mixtures of a condition, separated with one noise model."""
    return cross([Arm(noise, noise, sampler)], read_mixtures(condition))


if __name__ == "__main__":
    run(main)
