"""The folder that `davss separate` writes: checked before the work, whole after it.

Shapes: M sources · T samples · F bins · N frames.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from davss.errors import DavssError
from davss.media.audio import write_audio
from davss.storage import publish

REPORT, SPREAD = "separation.json", "spread.npz"


def source_names(num_speakers: int) -> list[str]:
    """The files of all sources, noise last."""
    return [*(f"speaker_{k + 1}.wav" for k in range(num_speakers)), "noise.wav"]


def make_folder(out: Path, names: Sequence[str], inputs: Iterable[Path]) -> None:
    """Make the folder `out`; DavssError if it cannot be made or written to, or if an input is there
    under one of `names` or is what an earlier separation left, which is going to be removed.
    """
    used = {path.resolve() for path in inputs}
    for name in [*names, *_written_before(out)]:
        if (out / name).resolve() in used:
            raise DavssError(f"--out {out}: {name} there is an input; give another folder")
    if out.exists() and not out.is_dir():
        raise DavssError(f"--out {out}: a file of that name is in the way; give a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DavssError(f"--out {out}: cannot be made ({reason}); give another folder") from None
    if not os.access(out, os.W_OK):
        raise DavssError(f"--out {out}: no permission to write there; give another folder")


def write_sources(
    out: Path, sources: Mapping[str, Tensor], sample_rate: int, spread: Tensor | None
) -> list[str]:
    """Write each source (T,) under its name, and the spread (M, F, N) of several draws; the names
    of all files. What an earlier separation has left there besides is removed.
    """
    for name, source in sources.items():
        write_audio(out / name, source.numpy(), sample_rate)
    files = list(sources)
    if spread is not None:
        write_spread(out / SPREAD, [Path(name).stem for name in sources], spread)
        files.append(SPREAD)
    for name in _written_before(out):
        if name not in files:
            (out / name).unlink(missing_ok=True)
    return files


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """Write separation.json, the last of the files: it names the others."""
    with publish(out / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def write_spread(path: Path, names: Sequence[str], spread: Tensor) -> None:
    """Write the spread (M, F, N) of named sources; without a noise model the noise has none."""
    with publish(path) as temporary, open(temporary, "wb") as stream:
        arrays = zip(names, spread.numpy(), strict=False)
        np.savez_compressed(stream, **dict(arrays))  # type: ignore[arg-type]


def _written_before(out: Path) -> list[str]:
    """The files of an earlier separation in the same folder, none of another's."""
    try:
        files = json.loads((out / REPORT).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    known = {SPREAD, *source_names(len(files))}
    return [name for name in files if name in known]
