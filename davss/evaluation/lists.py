"""Ready test lists of two-speaker mixtures of VoxCeleb2: which clip is mixed with which.

Two forms are read. That of FlowAVSE is a pickled list of dictionaries, `identifier1` and
`identifier2`, each `idXXXXX/<video>/000NN`; it is taken apart without running any of it: a pickle
of anything but dictionaries of texts is refused. The other is text, a pair a line, the two clips
set apart by a blank, comma, semicolon or tab. Clips may come with folders before them and an
ending.
"""

from __future__ import annotations

import codecs
import io
import pickle
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from davss.errors import DavssError

_CLIP = re.compile(r"(?:^|/)(id\d+/[^/]+/[^/]+?)(?:\.(?:mp4|m4a|wav|h5))?$")
_PICKLE = b"\x80"
_MEND = "see docs/method.md §10 for what a list holds"


@dataclass(frozen=True)
class Pair:
    """Two clips `idXXXXX/<video>/000NN` and the line, or the number in a pickle, that names them"""

    line: int
    clips: tuple[str, str]


def read_list(path: str | Path) -> list[Pair]:
    """The pairs of a list, in order; DavssError naming the line of what is none."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DavssError(f"{path}: cannot be read ({error.strerror}); set mixtures.list") from None
    rows = _unpickled(path, content) if content[:1] == _PICKLE else _lines(path, content)
    pairs = [Pair(line, _two_clips(path, line, names)) for line, names in rows]
    if not pairs:
        raise DavssError(f"{path}: names no mixture; {_MEND}")
    return pairs


def keys_of(path: str | Path, clips: pandas.DataFrame, usable: Collection[str]) -> list[list[str]]:
    """Keys of both clips of every pair of the list at `path`.

    `clips` (key, source) are those of the test split, `usable` the keys of those long enough.
    DavssError naming the first line of a clip that is not among them, and how many there are.
    """
    known = {_name(source): key for source, key in zip(clips.source, clips.key, strict=True)}
    pairs = read_list(path)
    bad = [
        (pair.line, name) for pair in pairs for name in pair.clips if known.get(name) not in usable
    ]
    if bad:
        line, name = bad[0]
        why = "is shorter than a mixture" if name in known else "is not in the test split's shards"
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DavssError(
            f"{path}: line {line}: {name} {why}{more}; lower mixtures.seconds or shards.min_seconds"
            ", see rejects.parquet of the shards, or take such lines out"
        )
    return [[known[name] for name in pair.clips] for pair in pairs]


def _name(text: str) -> str | None:
    found = _CLIP.search(text.replace("\\", "/"))
    return found.group(1) if found else None


def _two_clips(path: Path, line: int, names: list[str]) -> tuple[str, str]:
    clips = [clip for name in names if (clip := _name(name)) is not None]
    if len(names) != 2 or len(clips) != 2:
        raise DavssError(f"{path}: line {line}: expected two clips idXXXXX/<video>/000NN; {_MEND}")
    if clips[0] == clips[1]:
        raise DavssError(f"{path}: line {line}: a clip with itself; take the line out")
    return clips[0], clips[1]


def _lines(path: Path, content: bytes) -> list[tuple[int, list[str]]]:
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as of PowerShell
    try:
        lines = content.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DavssError(f"{path}: neither text nor a list of FlowAVSE; {_MEND}") from None
    rows = [(number, re.findall(r"[^\s,;\"]+", line)) for number, line in enumerate(lines, 1)]
    return [(number, names) for number, names in rows if names]


class _Plain(pickle.Unpickler):
    """Lists, dictionaries and texts alone: whatever needs a name from a module is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def _unpickled(path: Path, content: bytes) -> list[tuple[int, list[str]]]:
    try:
        rows = _Plain(io.BytesIO(content)).load()
    # What a broken pickle raises is not limited to UnpicklingError, by its documentation.
    except Exception:
        raise DavssError(f"{path}: not a plain pickled list of clips; {_MEND}") from None
    if not isinstance(rows, list):
        raise DavssError(f"{path}: not a plain pickled list of clips; {_MEND}")
    return [
        (number, [str(name) for name in row.values()] if isinstance(row, dict) else [])
        for number, row in enumerate(rows, 1)
    ]
