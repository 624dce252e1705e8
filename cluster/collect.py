"""The last step of a job: copy the stage's outs to the shared storage for `cluster.submit`.

python -m cluster.collect JOB OUT [OUT …]
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from davss.errors import DavssError
from davss.storage import publish, storage_root
from pipelines import run


def main(argv: Sequence[str] | None = None) -> None:
    """Publish all outs as one folder $DAVSS_STORAGE/jobs/JOB, or none."""
    parser = argparse.ArgumentParser(
        prog="cluster.collect", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("job")
    parser.add_argument("outs", nargs="+", metavar="OUT")
    args = parser.parse_args(argv)
    with publish(storage_root() / "jobs" / args.job) as folder:
        for out in args.outs:
            _copy(Path(out), folder / out)


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise DavssError(f"{source}: the stage did not write this out")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


if __name__ == "__main__":
    run(main, reads_params=False)
