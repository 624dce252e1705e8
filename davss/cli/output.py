"""The folder that `davss separate` writes: tried before the work, whole after it or as it was.

Shapes: M sources · T samples · F bins · N frames.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from davss.errors import DavssError, StorageError
from davss.media.audio import write_blocks

if TYPE_CHECKING:
    from davss.cli.extras import Beside

REPORT, SPREAD, PREVIEW = "separation.json", "spread.npz", "preview.html"


def source_files(num_speakers: int) -> list[str]:
    """The files of all sources, noise last."""
    return [*(f"speaker_{k + 1}.wav" for k in range(num_speakers)), "noise.wav"]


def check_folder(out: Path, names: Sequence[str], inputs: Iterable[Path], num_bytes: int) -> None:
    """Try whether files of `names`, `num_bytes` in all, can be written to the folder `out`, and
    leave nothing there.

    Raises DavssError if they cannot, if an input is there under one of `names` or is what an
    earlier separation left, which is going to be removed, and if another file of one of `names` is
    there: somebody's own noise.wav is not replaced.
    """
    used, before = {path.resolve() for path in inputs}, _written_before(out)
    for name in [*names, *before]:
        if (out / name).resolve() in used:
            raise DavssError(f"--out {out}: {name} there is an input; give another folder")
    ours = {*before, REPORT} if before else set()
    for name in [*names, REPORT]:
        if os.path.isfile(out / name) and name not in ours:
            raise DavssError(
                f"--out {out}: {name} there is not of an earlier separation; move it or give "
                "another folder"
            )
    if os.path.exists(out) and not os.path.isdir(out):
        raise DavssError(f"--out {out}: a file of that name is in the way; give a folder")
    with staging_folder(out) as staging:
        for name in (*names, REPORT):
            if os.path.isdir(out / name):
                raise DavssError(f"--out {out}: {name} there is a folder; give another folder")
            (staging / name).write_bytes(b"\0")  # access rights alone do not tell
        free = shutil.disk_usage(out).free
        if free < num_bytes:
            needed = f"{num_bytes / 1e6:.3g} MB are needed, {free / 1e6:.3g} MB are free"
            raise OSError(errno.ENOSPC, f"no space left: {needed}")


def write_results(
    out: Path,
    sources: Mapping[str, Iterable[Tensor]],
    sample_rate: int,
    spread: Tensor | None,
    report: Mapping[str, Any],
    extras: Beside | None = None,
) -> dict[str, Any]:
    """Write each source, in blocks (n,), under its name, the spread (M, F, N) of several draws, and
    the report with the names of all files, which is returned. All of them appear in `out`, or none;
    what an earlier separation has left there besides is removed. `extras` make other files of
    these.
    """
    report = {**report, "files": [*sources, *([] if spread is None else [SPREAD])]}
    report["files"] += extras.names if extras else []
    stale = set(_written_before(out)) - set(report["files"])
    with staging_folder(out) as staging:
        for name, source in sources.items():
            write_blocks(staging / name, (block.numpy() for block in source), sample_rate)
        if spread is not None:
            write_spread(staging / SPREAD, [Path(name).stem for name in sources], spread)
        if extras:
            extras.write(staging, report)
        (staging / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        for name in [*report["files"], REPORT]:
            os.replace(staging / name, out / name)
        for name in stale:
            (out / name).unlink(missing_ok=True)
    return report


def write_spread(path: Path, names: Sequence[str], spread: Tensor) -> None:
    """Write the spread (M, F, N) of named sources; without a noise model the noise has none."""
    arrays = zip(names, spread.numpy(), strict=False)
    np.savez_compressed(path, **dict(arrays))  # type: ignore[arg-type]


@contextmanager
def staging_folder(out: Path, shown: str | None = None) -> Iterator[Path]:
    """A folder in `out` that goes after the block, and so do those folders of `out` that were not
    there before and have stayed empty. What the system refuses becomes a DavssError
    that calls it `shown`.
    """
    absent: list[Path] = []
    try:
        absent += [folder for folder in (out, *out.parents) if not os.path.exists(folder)]
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".davss-") as staging:
            yield Path(staging)
    except (OSError, StorageError) as error:
        if isinstance(error, StorageError):  # which names a file of the staging folder
            reason = str(error).split(": ", 1)[1].split("; ")[0]
        else:
            reason = error.strerror or str(error)
        mend = "free some space or " if "space" in reason else ""
        reason = reason[0].lower() + reason[1:]
        raise DavssError(
            f"{shown or f'--out {out}'}: cannot be written ({reason}); {mend}give another folder"
        ) from None
    finally:
        for folder in absent:
            with suppress(OSError):
                folder.rmdir()


def _written_before(out: Path) -> list[str]:
    """The files of an earlier separation in the same folder, none of another's."""
    try:
        files = [str(name) for name in json.loads((out / REPORT).read_text())["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    known = {SPREAD, PREVIEW, *source_files(len(files))}
    known |= {f"speaker_{k + 1}{suffix}" for k in range(len(files)) for suffix in (".mp4", ".mkv")}
    return [name for name in files if name in known]
