"""The last step of a job: put the stage's outs into the storage for `cluster.submit`.

python -m cluster.collect JOB OUT [OUT …]
"""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Sequence
from pathlib import Path

from davss.errors import DavssError
from davss.storage import open_storage
from pipelines import run


def main(argv: Sequence[str] | None = None) -> None:
    """Put all outs as one file, jobs/JOB.tar, into the storage, or none."""
    parser = argparse.ArgumentParser(
        prog="cluster.collect", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("job")
    parser.add_argument("outs", nargs="+", metavar="OUT")
    args = parser.parse_args(argv)
    store = open_storage()
    with store.scratch("jobs") as folder:
        with tarfile.open(folder / "outs.tar", "w") as archive:
            for out in args.outs:
                if not Path(out).exists():
                    raise DavssError(f"{out}: the stage did not write this out")
                archive.add(out)
        store.put(folder / "outs.tar", collected(args.job))


def collected(job: str) -> str:
    """Where in the storage the outs of a job lie until they are fetched."""
    return f"jobs/{job}.tar"


if __name__ == "__main__":
    run(main, reads_params=False)
