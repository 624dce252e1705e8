"""What an unexpected file is, judged by its first bytes."""

import zipfile
from pathlib import Path

_LFS_POINTER = "a Git LFS pointer, not the file itself; run `git lfs pull` where it comes from"
_WEB_PAGE = "a web page; the download went wrong, get the file itself"
_ARCHIVE = "an archive; unpack it and give the file inside"
_WAV, _OTHER_AUDIO, _VIDEO = "a wav recording", "a recording", "a video"
_STARTS = [
    (0, b"version https://git-lfs", _LFS_POINTER),
    (8, b"WAVE", _WAV),
    (0, b"fLaC", _OTHER_AUDIO),
    (0, b"OggS", _OTHER_AUDIO),
    (0, b"ID3", _OTHER_AUDIO),
    (4, b"ftyp", _VIDEO),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (8, b"AVI ", _VIDEO),
    (0, b"\x1f\x8b", _ARCHIVE),
    (0, b"BZh", _ARCHIVE),
    (0, b"\xfd7zXZ", _ARCHIVE),
    (0, b"7z\xbc\xaf", _ARCHIVE),
    (0, b"Rar!", _ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", _ARCHIVE),
    (257, b"ustar", _ARCHIVE),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "an array of NumPy"),
    (0, b"%PDF", "a PDF"),
    (0, b"\x89PNG", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
]


def kind_of(path: Path) -> str | None:
    """What the file at `path` is, perhaps with what to do; None if its bytes do not say."""
    if path.is_dir():
        return "a folder"
    with open(path, "rb") as stream:
        start = stream.read(512)
    if not start:
        return "an empty file (0 bytes); copy or download it again"
    for offset, magic, kind in _STARTS:
        if start[offset:].startswith(magic):
            return kind
    if start.startswith(b"PK\x03\x04"):
        whole = zipfile.is_zipfile(path)
        return _ARCHIVE if whole else "a zip archive cut short; copy or download it again"
    text = start.decode("utf-8-sig", errors="replace").lstrip().lower()
    if text.startswith(("<!doctype html", "<html", "<?xml", "<head")):
        return _WEB_PAGE
    printable = all(character.isprintable() or character.isspace() for character in text[:-1])
    few = text.count("\ufffd") < len(text) / 4  # of another encoding; sound has many
    return "a text file" if printable and few else None
