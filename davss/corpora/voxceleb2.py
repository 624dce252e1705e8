"""VoxCeleb2: `{dev,test}/mp4/idXXXXX/<video>/000NN.mp4`, face tracks at 25 fps with AAC sound.

dev becomes train, with clips held out by the hash of their path for valid; test stays test (its
speakers are others).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from davss.corpora import RawClip, hash_fraction, require_root, wrong_layout
from davss.shards.contract import make_key

SETTING = "corpora.voxceleb2"
LAYOUT = "{dev,test}/mp4/idXXXXX/<video>/000NN.mp4"


def scan(root: Path, validation_fraction: float) -> Iterator[RawClip]:
    """Clips of VoxCeleb2, sorted by path; DavssError for a missing, empty or foreign root."""
    require_root(root, SETTING, LAYOUT)
    for part in ("dev", "test"):
        paths = sorted((root / part / "mp4").glob("id*/*/*.mp4"))
        if not paths:
            raise wrong_layout(root / part, SETTING, LAYOUT)
        for path in paths:
            yield _clip(root, path, part, validation_fraction)


def _clip(root: Path, path: Path, part: str, validation_fraction: float) -> RawClip:
    source = path.relative_to(root).as_posix()
    split = "test"
    if part == "dev":
        split = "valid" if hash_fraction(source) < validation_fraction else "train"
    key = make_key(source.replace("/mp4/", "/", 1))
    return RawClip(key, split, path.parts[-3], source, audio=path, video=path)
