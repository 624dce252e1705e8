"""Stage: the evaluation mixtures of one noise condition → data/mixtures/CONDITION.parquet.

    python -m pipelines.mixtures {wham,dns} [--params params.yaml]

VoxCeleb2's test speakers with the test split of the condition's noise corpus; no audio is written.
"""

from __future__ import annotations

from pathlib import Path

from davss.config import SPEECH_CORPUS, MixturesConfig, load_section
from davss.evaluation.mixtures import plan_mixtures
from davss.storage import publish
from pipelines import run, stage_parser
from pipelines.clips import open_shards


def main(argv: list[str] | None = None) -> None:
    """Plan the mixtures of one condition."""
    parser = stage_parser("mixtures", __doc__)
    parser.add_argument("condition", choices=["wham", "dns"], help="corpus the noise comes from")
    arguments = parser.parse_args(argv)
    config = load_section(arguments.params, "mixtures", MixturesConfig)
    seed = load_section(arguments.params, "seed", int)
    speech, noise = open_shards(SPEECH_CORPUS), open_shards(arguments.condition)
    manifest = plan_mixtures(speech, noise, config, arguments.condition, seed)
    path = Path("data/mixtures") / f"{arguments.condition}.parquet"
    with publish(path) as temporary:
        manifest.to_parquet(temporary, index=False)
    print(f"{arguments.condition}: {len(manifest)} mixtures of {config.seconds:g} s in {path}")


if __name__ == "__main__":
    run(main)
