"""VoxCeleb2: face tracks of people who talk, at 25 fps, in the layouts that laboratories hold.

The official release and what is made of it, `{dev,test}/TREE/idXXXXX/<video>/000NN.EXT`, and that
of VisualVoice, `TREE/{train,val,unseen_unheard_test}/idXXXXX/<video>/000NN.EXT`. A clip is made of
what the trees hold of it: its sound, in the order of `_SOUND`, and its lips, in that of `_LIPS`.

Speakers of dev are for training but for those held out by the hash of their id (or clips by the
hash of their path) for valid; test stays test, and its speakers are others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from davss.corpora import RawClip, hash_fraction, place, require_root, tell, wrong_layout
from davss.corpora.listing import has_folder, list_files
from davss.shards.contract import make_key

SETTING = "corpora.voxceleb2"
LAYOUT = "{dev,test}/{mp4,aac,wav}/idXXXXX/<video>/000NN.{mp4,m4a,wav}"
# (tree, ending) of the files of a clip. wav is taken before the sound of an mp4: it costs less.
_SOUND = (("wav", ".wav"), ("audio", ".wav"), ("aac", ".wav"), ("aac", ".m4a"), ("mp4", ".mp4"))
_LIPS = (("mouth_roi", ".h5"), ("mouth_roi_hdf5", ".h5"), ("mp4", ".mp4"))
_FILES = tuple(dict.fromkeys(_SOUND + _LIPS))
_TREES = tuple(dict.fromkeys(tree for tree, _ in _FILES))
_OFFICIAL = {"dev": "train", "test": "test"}
_VISUALVOICE = {"train": "train", "val": "valid", "unseen_unheard_test": "test"}
_SEEN = "seen_heard_test"  # of VisualVoice: its speakers are those of train


@dataclass(frozen=True)
class _Part:
    """A part of the corpus: its split, and folder by tree."""

    name: str
    split: str
    folders: dict[str, str]


def scan(
    root: str | Path,
    validation_fraction: float,
    validation_by: str = "clip",
    without_video: bool = True,
) -> Iterator[RawClip]:
    """Clips of VoxCeleb2; DavssError for a missing, empty or foreign root.

    `validation_by` is `speaker` or `clip`; `without_video` takes clips that are sound alone.
    """
    require_root(root, SETTING, LAYOUT)
    found = False
    for part in _parts(root):
        for name, files in _clips(root, part, without_video):
            found = True
            clip = _clip(root, part, name, files)
            held_out = hash_fraction(clip.speaker if validation_by == "speaker" else clip.source)
            if part.name == "dev" and held_out < validation_fraction:
                clip = replace(clip, split="valid")
            yield clip
    if not found:
        raise wrong_layout(root, SETTING, LAYOUT)


def _parts(root: str | Path) -> list[_Part]:
    official = [part for part in _OFFICIAL if has_folder(root, part)]
    if official:
        absent = sorted(_OFFICIAL.keys() - set(official))
        tell(SETTING, len(absent), "part not there", (absent or [""])[0])
        return [
            _Part(part, _OFFICIAL[part], {tree: f"{part}/{tree}" for tree in _TREES})
            for part in official
        ]
    seen = [f"{tree}/{_SEEN}" for tree in _TREES if has_folder(root, f"{tree}/{_SEEN}")]
    tell(SETTING, len(seen), "folders left out, whose speakers train", (seen or [""])[0])
    return [
        _Part(part, split, {tree: f"{tree}/{part}" for tree in _TREES})
        for part, split in _VISUALVOICE.items()
    ]


def _clips(root: str | Path, part: _Part, without_video: bool) -> Iterator[tuple[str, list]]:
    """Names `idXXXXX/<video>/000NN` of a part's clips, sorted, with files (tree, ending) of each.

    All trees are gone through before the first clip, into one dictionary of small numbers.
    """
    made_of = _files_of_clips(root, part)
    soundless, lipless = [], []
    for name in sorted(made_of):
        files = [file for bit, file in enumerate(_FILES) if made_of[name] >> bit & 1]
        if not set(files) & set(_SOUND):
            soundless.append(name)
        elif not without_video and not set(files) & set(_LIPS):
            lipless.append(name)
        else:
            yield name, files
    for what, names in (("sound", soundless), ("video", lipless)):
        text = f"clips of {part.name} left out, without {what}"
        tell(SETTING, len(names), text, "".join(names[:1]))


def _files_of_clips(root: str | Path, part: _Part) -> dict[str, int]:
    """Which of `_FILES` there are, one bit for each, by name of the clip."""
    made_of: dict[str, int] = defaultdict(int)
    foreign: list[str] = []
    for tree, folder in part.folders.items():
        for path in list_files(root, folder):
            name, dot, ending = path.removeprefix(f"{folder}/").rpartition(".")
            file = (tree, dot + ending)
            if file not in _FILES or name.count("/") != 2:
                foreign.append(path)
                continue
            made_of[name] |= 1 << _FILES.index(file)
    tell(SETTING, len(foreign), "files left out, not of the corpus", "".join(foreign[:1]))
    return made_of


def _clip(root: str | Path, part: _Part, name: str, files: list[tuple[str, str]]) -> RawClip:
    def path(choices: Iterable[tuple[str, str]]) -> str | None:
        tree, ending = next((file for file in choices if file in files), ("", ""))
        return f"{part.folders[tree]}/{name}{ending}" if tree else None

    sound, lips = path(_SOUND), path(_LIPS)
    # A clip is known by its video, where there is one; crops alone are no recording.
    source = lips if lips is not None and lips.endswith(".mp4") else str(sound)
    return RawClip(
        key=make_key(f"{part.name}/{name}.mp4"),
        split=part.split,
        speaker=name.split("/")[0],
        source=source,
        audio=place(root, str(sound)),
        video=None if lips is None else place(root, lips),
    )
