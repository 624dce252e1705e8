"""DNS challenge noise: DNS4/5 (`datasets_fullband/noise_fullband/*.wav`, 48 kHz) or DNS3.

DNS3 has `datasets/noise/*.wav` at 16 kHz. There is no official split: a file goes to train, valid
or test by the hash of its stem.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from davss.corpora import SPLITS, RawClip, hash_fraction, require_root, wrong_layout
from davss.errors import DavssError
from davss.shards.contract import make_key

SETTING = "corpora.dns"
LAYOUT = "datasets_fullband/noise_fullband/*.wav or datasets/noise/*.wav"
_FOLDERS = ("datasets_fullband/noise_fullband", "datasets/noise", ".")


def scan(root: Path, split_fractions: tuple[float, float, float]) -> Iterator[RawClip]:
    """Clips of DNS noise, split train/valid/test in `split_fractions`; DavssError for a bad root.

    `root` is the release or the folder of its noise files.
    """
    if abs(sum(split_fractions) - 1) > 1e-6:
        raise DavssError(f"{SETTING}.split_fractions: {list(split_fractions)} do not sum to 1")
    require_root(root, SETTING, LAYOUT)
    paths = [path for folder in _FOLDERS for path in sorted((root / folder).glob("*.wav"))]
    if not paths:
        raise wrong_layout(root, SETTING, LAYOUT)
    for path in paths:
        source = path.relative_to(root).as_posix()
        split = _split(path.stem, split_fractions)
        yield RawClip(make_key(f"dns/{path.name}"), split, "", source, audio=path)


def _split(stem: str, fractions: tuple[float, float, float]) -> str:
    place = hash_fraction(stem)
    for split, upper in zip(SPLITS[:2], (fractions[0], fractions[0] + fractions[1]), strict=True):
        if place < upper:
            return split
    return SPLITS[2]
