"""Raw corpora in their official layouts → clips with key, split and speaker; nothing is decoded.

Readers are generators over the names below a root, a folder or `s3://bucket/prefix`: a million
clips take them little memory. What they leave out they tell (`tell`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from davss.corpora.listing import list_folder
from davss.errors import DavssError
from davss.seeds import number_of
from davss.shards.contract import SPLITS
from davss.storage import S3


@dataclass(frozen=True, slots=True)
class RawClip:
    """One recording of a corpus: where its audio (and video) lie, and which split it belongs to.

    `video` may be a file of ready mouth crops (davss.media.rois).
    """

    key: str
    split: str
    speaker: str
    source: str  # path relative to the root: what manifests and rejects name
    audio: Path | str  # s3://… where the corpus lies in a bucket
    video: Path | str | None = None


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone: splits stay put when clips come or go."""
    return number_of(text, "big") / 2**64


def split_of(text: str, fractions: tuple[float, float, float], setting: str) -> str:
    """The split, train/valid/test in `fractions`, to which the hash of `text` leads."""
    if abs(sum(fractions) - 1) > 1e-6:
        raise DavssError(f"{setting}.split_fractions: {list(fractions)} do not sum to 1")
    fraction = hash_fraction(text)
    if fraction < fractions[0]:
        return SPLITS[0]
    return SPLITS[1] if fraction < fractions[0] + fractions[1] else SPLITS[2]


def require_root(root: str | Path, setting: str, layout: str) -> None:
    """Raise DavssError unless `root` is a directory with something in it; buckets are not asked."""
    if str(root).startswith(S3):
        return
    root = Path(root)
    if not root.is_dir():
        raise DavssError(f"{root}: no such folder; expected {layout}; set {setting}.root")
    if not list_folder(root):
        raise DavssError(f"{root}: the folder is empty; expected {layout}; set {setting}.root")


def place(root: str | Path, name: str) -> Path | str:
    """Where the file `name` below a root lies, also to processes that work in another folder."""
    if str(root).startswith(S3):
        return f"{str(root).rstrip('/')}/{name}"
    return Path(root).absolute() / name


def wrong_layout(root: object, setting: str, layout: str) -> DavssError:
    """The error for a root that holds something else than the corpus."""
    return DavssError(f"{root}: not the official layout; expected {layout}; set {setting}.root")


def tell(setting: str, count: int, what: str, example: str) -> None:
    """One line on standard error about files that a reader leaves out, if there are any."""
    if count:
        print(f"{setting}: {count} {what}, as {example}", file=sys.stderr)
