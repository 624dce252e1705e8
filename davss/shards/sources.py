"""The files of raw clips: on this machine, or in a bucket, from which they are copied for a while.

A path of a clip is a Path, or the text `s3://bucket/…`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from davss.corpora import RawClip
from davss.storage import S3, Store, open_store, sha256


@contextmanager
def on_this_machine(clip: RawClip, scratch: Path) -> Iterator[RawClip]:
    """The clip with paths of this machine; copies from a bucket are gone after the block."""
    copies: dict[str, Path] = {}
    for path in paths_of(clip):
        if path.startswith(S3):
            store, name = _in_store(path)
            copies[path] = scratch / f"{len(copies)}{PurePosixPath(name).suffix}"
            store.fetch(name, copies[path])
    try:
        yield dataclasses.replace(
            clip,
            audio=copies.get(str(clip.audio), clip.audio),
            video=copies.get(str(clip.video), clip.video),
        )
    finally:
        for copy in copies.values():
            copy.unlink()


def paths_of(clip: RawClip) -> list[str]:
    """Paths of a clip's files, each once."""
    return list(dict.fromkeys(str(path) for path in (clip.audio, clip.video) if path))


def contents(clip: RawClip) -> str:
    """SHA-256 of a clip's file; of two files that of their SHA-256, one a line."""
    digests = [sha256(Path(path)) for path in paths_of(clip)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def version(clip: RawClip) -> str:
    """Sizes of a clip's files and when they were written, or in a bucket their ETags."""
    entries = [store.stat(name) for store, name in map(_in_store, paths_of(clip))]
    return " ".join(f"{entry.size}:{entry.version}" if entry else "-" for entry in entries)


def without_root(text: str, clip: RawClip, local: RawClip) -> str:
    """`text` with a clip's paths as they are below the corpus' root, wherever that may lie."""
    for path, here in zip((clip.audio, clip.video), (local.audio, local.video), strict=True):
        text = text.replace(str(here), _relative(str(path), clip))
    return text


def _relative(path: str, clip: RawClip) -> str:
    roots = [known.removesuffix(clip.source) for known in paths_of(clip)]
    root = next((r for r, p in zip(roots, paths_of(clip), strict=True) if r != p), "")
    return path.removeprefix(root)


def _in_store(path: str) -> tuple[Store, str]:
    folder, _, name = path.rpartition("/")
    return open_store(folder or "/"), name
