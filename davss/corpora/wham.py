"""WHAM! noise: `wham_noise/{tr,cv,tt}/*.wav`, 16 kHz, stereo, of which the first channel is taken.

Speed-perturbed copies of the augmented release (`…sp08.wav`, `…sp12.wav`) are left out, unless
asked for: of train alone, for a copy is no new test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import soundfile

from davss.corpora import RawClip, place, require_root, tell, wrong_layout
from davss.corpora.listing import has_folder, list_files
from davss.errors import DavssError
from davss.shards.contract import make_key
from davss.storage import S3

SETTING = "corpora.wham"
LAYOUT = "wham_noise/{tr,cv,tt}/*.wav (16 kHz)"
SAMPLE_RATE, CHANNELS = 16_000, 2
_SPLITS = {"tr": "train", "cv": "valid", "tt": "test"}
_AUGMENTED = re.compile(r"sp(08|12)$")


def scan(root: str | Path, augmented: bool = False) -> Iterator[RawClip]:
    """Clips of WHAM!, with their speed-perturbed copies in train if `augmented`.

    `root` is the release or its folder wham_noise. DavssError for a bad root, or naming a file that
    is not stereo at 16 kHz; files in a bucket are not looked into.
    """
    require_root(root, SETTING, LAYOUT)
    base = "wham_noise/" if has_folder(root, "wham_noise") else ""
    copies, foreign = [], []
    for part, split in _SPLITS.items():
        found = False
        for source in list_files(root, base + part):
            path = PurePosixPath(source)
            if path.suffix != ".wav":
                foreign.append(source)
            elif _AUGMENTED.search(path.stem) and not (augmented and split == "train"):
                copies.append(source)
            else:
                found = True
                key = make_key(f"{part}/{path.name}")
                yield RawClip(key, split, "", source, audio=_checked(place(root, source)))
        if not found:
            raise wrong_layout(place(root, base + part), SETTING, LAYOUT)
    tell(SETTING, len(copies), "speed-perturbed copies left out", "".join(copies[:1]))
    tell(SETTING, len(foreign), "files left out, not of the corpus", "".join(foreign[:1]))


def _checked(path: Path | str) -> Path | str:
    if str(path).startswith(S3):
        return path
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:
        return path  # a broken file is one reject, told when it is decoded
    if info.samplerate != SAMPLE_RATE:
        raise DavssError(
            f"{path}: {info.samplerate} Hz, WHAM! noise is {SAMPLE_RATE} Hz; use the official "
            "release or resample it"
        )
    if info.channels != CHANNELS:
        raise DavssError(
            f"{path}: {info.channels} channel(s), WHAM! noise is stereo, of which the first is "
            "taken; use the official release, or copy the channel"
        )
    return path
