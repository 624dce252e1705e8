"""WHAM! noise: `wham_noise/{tr,cv,tt}/*.wav`, 16 kHz, stereo, of which the first channel is taken.

Speed-perturbed copies of the augmented release (`…sp08.wav`, `…sp12.wav`) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import soundfile

from davss.corpora import RawClip, require_root, wrong_layout
from davss.errors import DavssError
from davss.shards.contract import make_key

SETTING = "corpora.wham"
LAYOUT = "wham_noise/{tr,cv,tt}/*.wav (16 kHz)"
SAMPLE_RATE = 16_000
_SPLITS = {"tr": "train", "cv": "valid", "tt": "test"}
_AUGMENTED = re.compile(r"sp(08|12)$")


def scan(root: Path) -> Iterator[RawClip]:
    """Clips of WHAM!; DavssError for a bad root, or naming a file that is not at 16 kHz.

    `root` is the release or its folder wham_noise.
    """
    require_root(root, SETTING, LAYOUT)
    base = root / "wham_noise" if (root / "wham_noise").is_dir() else root
    for part, split in _SPLITS.items():
        paths = sorted((base / part).glob("*.wav"))
        paths = [path for path in paths if not _AUGMENTED.search(path.stem)]
        if not paths:
            raise wrong_layout(base / part, SETTING, LAYOUT)
        for path in paths:
            _check_rate(path)
            source = path.relative_to(root).as_posix()
            key = make_key(f"{part}/{path.name}")
            yield RawClip(key, split, "", source, audio=path)


def _check_rate(path: Path) -> None:
    try:
        rate = soundfile.info(path).samplerate
    except soundfile.LibsndfileError:
        return  # a broken file is one reject, told when it is decoded
    if rate != SAMPLE_RATE:
        raise DavssError(
            f"{path}: {rate} Hz, WHAM! noise is {SAMPLE_RATE} Hz; use the official release or "
            "resample it"
        )
