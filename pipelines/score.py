"""Stage: score the estimates of the noise model NOISE on the mixtures of CONDITION.

    python -m pipelines.score NOISE CONDITION

Writes data/scores/NOISE-CONDITION.parquet, one row per mixture and source. DAVSS_NUM_PROCESSES
sets the number of processes (default: CPU cores).
"""

from __future__ import annotations

from pathlib import Path

import pandas

from davss import cores
from davss.errors import DavssError
from davss.evaluation.records import RECORD, read_manifest
from davss.evaluation.scoring import score_plan
from davss.evaluation.trials import Arm, cross
from davss.storage import open_storage, publish
from pipelines import count_of, run, stage_parser
from pipelines.clips import open_library, read_mixtures


def main(argv: list[str] | None = None) -> None:
    """Score all estimates of one noise model and condition."""
    parser = stage_parser("score", __doc__)
    parser.add_argument("noise", help="noise model, as the separate stage was given it")
    parser.add_argument("condition", help="corpus the mixtures' noise comes from: wham, dns")
    arguments = parser.parse_args(argv)
    noise, condition = arguments.noise, arguments.condition
    processes = count_of("DAVSS_NUM_PROCESSES", "processes") or cores.count()
    rows = read_mixtures(condition)
    records = read_records(noise, condition, [row["key"] for row in rows])
    trials = cross([Arm(noise, noise, None)], rows)
    library, storage = open_library(condition), open_storage()
    scores = score_plan(trials, records, library, storage, num_processes=processes)
    path = Path("data/scores") / f"{noise}-{condition}.parquet"
    with publish(path) as temporary:
        scores.to_parquet(temporary, index=False)
    print(f"{path}: {len(rows)} mixtures, {len(scores)} sources scored")


def read_records(noise: str, condition: str, keys: list[str]) -> pandas.DataFrame:
    """The estimates manifest of the separate stage, in the order of `keys`."""
    path = Path("data/estimates") / f"{noise}-{condition}.parquet"
    stage = f"dvc repro separate@{noise}-{condition}"
    records = read_manifest(path, stage, RECORD).set_index("key", drop=False)
    missing = sorted(set(keys) - set(records.index))
    if missing:
        raise DavssError(f"{path}: no estimate of mixture {missing[0]}; make it with `{stage}`")
    return records.loc[keys]


if __name__ == "__main__":
    run(main)
