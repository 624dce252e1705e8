"""A KubeRay RayJob for one stage, from the template rayjob.yaml: a cluster that lives for the job.

    python -m cluster.render STAGE | kubectl apply -f -

STAGE is a name of `dvc stage list`. Image, claims and sizes are those of the template.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cluster.stages import read_stage
from pipelines import run

TEMPLATE = Path(__file__).parent / "rayjob.yaml"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the manifest."""
    parser = argparse.ArgumentParser(
        prog="cluster.render", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("stage", metavar="STAGE", help="as `dvc stage list` names it")
    stage = read_stage(Path.cwd(), parser.parse_args(argv).stage)
    name = stage.name.replace("@", "-").replace("_", "-")
    text = TEMPLATE.read_text(encoding="utf-8")
    for there, here in (("NAME", name), ("STAGE", stage.name), ("COMMAND", stage.cmd)):
        text = text.replace(f"${{{there}}}", here)
    print(text, end="")


if __name__ == "__main__":
    run(main, reads_params=False)
