"""The stages of the experiment, one thin module each; dvc.yaml runs `python -m pipelines.NAME`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from davss.errors import DavssError, ending_in_one_line, require_packages

require_packages("pandas", "ray")

CLUSTER = "DAVSS_CLUSTER"
# Stages that `dvc repro` runs on the cluster of $DAVSS_CLUSTER, as dvc.yaml names them.
ON_CLUSTERS = ("shards", "train_speech", "train_noise", "separate", "experiments")


def run(main: Callable[[], None], *, reads_params: bool = True) -> None:
    """Run a stage's `main`; exit status 2 for what the user can mend, 130 on Ctrl-C.

    The whole params file is checked first: a slip in a late section stops the first stage already.
    Under DVC a heavy stage becomes a job where $DAVSS_CLUSTER names a cluster.
    """
    from pipelines.compose import check_argv

    with ending_in_one_line():
        if reads_params:
            check_argv(sys.argv[1:])
        stage = os.environ.pop("DVC_STAGE", "").rpartition(":")[2]  # DVC says which it runs
        if os.environ.get(CLUSTER) and stage.partition("@")[0] in ON_CLUSTERS:
            command = [sys.executable, "-m", "cluster.submit", "--no-commit", stage]
            os.execv(command[0], command)
        main()


def stage_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """What parses the command line of the stage `name`, whose module says `doc`."""
    description = (doc or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog=f"pipelines.{name}", description=description)
    parser.add_argument("--params", default="params.yaml", help="settings (default: params.yaml)")
    return parser


def count_of(variable: str, what: str) -> int | None:
    """The number that an environment variable gives, None where it is absent or empty; DavssError
    for no number.
    """
    text = os.environ.get(variable)
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise DavssError(f"{variable}={text}: give the number of {what}, 1 or more")
    return int(text)
