"""DNS challenge noise: DNS4/5 (`datasets_fullband/noise_fullband/*.wav`, 48 kHz) or DNS3.

DNS3 has `datasets/noise/*.wav` at 16 kHz. There is no official split: a file goes to train, valid
or test by the hash of its stem.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from davss.corpora import (
    RawClip,
    place,
    require_root,
    split_of,
    tell,
    wrong_layout,
)
from davss.corpora.listing import has_folder, list_files
from davss.shards.contract import make_key

SETTING = "corpora.dns"
LAYOUT = "datasets_fullband/noise_fullband/*.wav or datasets/noise/*.wav"
_FOLDERS = ("datasets_fullband/noise_fullband", "datasets/noise")


def scan(root: str | Path, split_fractions: tuple[float, float, float]) -> Iterator[RawClip]:
    """Clips of DNS noise, split train/valid/test in `split_fractions`; DavssError for a bad root.

    `root` is the release or the folder of its noise files.
    """
    require_root(root, SETTING, LAYOUT)
    folders = [folder for folder in _FOLDERS if has_folder(root, folder)] or [""]
    foreign, found = [], False
    for folder in folders:
        for source in list_files(root, folder):
            path = PurePosixPath(source)
            if path.suffix != ".wav" or str(path.parent) != (folder or "."):
                foreign.append(source)
                continue
            found = True
            split = split_of(path.stem, split_fractions, SETTING)
            key = make_key(f"dns/{path.name}")
            yield RawClip(key, split, "", source, audio=place(root, source))
    if not found:
        raise wrong_layout(root, SETTING, LAYOUT)
    tell(SETTING, len(foreign), "files left out, not of the corpus", "".join(foreign[:1]))
