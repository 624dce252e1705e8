"""Clean speech without video, one folder a speaker: ROOT/SPEAKER/**/*.{flac,wav,ogg}.

LibriSpeech's subsets (`train-clean-100`) and VCTK's `wav48` lie like this. It fills the
unconditional branch of the speech prior and gives speakers that nobody sees. A speaker goes to
train, valid or test as a whole, by the hash of the folder's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from davss.corpora import RawClip, place, require_root, split_of, tell, wrong_layout
from davss.corpora.listing import list_files
from davss.shards.contract import make_key

SETTING = "corpora.speech"
LAYOUT = "SPEAKER/**/*.{flac,wav,ogg}"
_ENDINGS = {".flac", ".wav", ".ogg"}


def scan(root: str | Path, split_fractions: tuple[float, float, float]) -> Iterator[RawClip]:
    """Clips of all speakers, who are split train/valid/test in `split_fractions`; DavssError for a
    bad root.
    """
    require_root(root, SETTING, LAYOUT)
    foreign, found = [], False
    for source in list_files(root):
        path = PurePosixPath(source)
        if path.suffix.lower() not in _ENDINGS or len(path.parts) < 2:
            foreign.append(source)
            continue
        found = True
        speaker = path.parts[0]
        split = split_of(speaker, split_fractions, SETTING)
        key = make_key(f"speech/{source}")
        yield RawClip(key, split, speaker, source, audio=place(root, source))
    if not found:
        raise wrong_layout(root, SETTING, LAYOUT)
    tell(SETTING, len(foreign), "files left out, not of the corpus", "".join(foreign[:1]))
