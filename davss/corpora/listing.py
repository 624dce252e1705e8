"""The names of all files below a root, a folder of this machine or `s3://bucket/prefix`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from davss.errors import DavssError
from davss.storage import S3, open_store


def list_files(root: str | Path, folder: str = "") -> Iterator[str]:
    """Names relative to `root`, with `/`, of the files below root/folder; none if there is no such
    folder. Of a folder of this machine they come sorted, directory by directory.

    Hidden files are left out. DavssError for a directory that may not be read, and for a name that
    is not UTF-8, which no manifest could hold.
    """
    if str(root).startswith(S3):
        names = (entry.name for entry in open_store(str(root)).list(folder))
        yield from (name for name in names if "/." not in f"/{name}")
    elif (Path(root) / folder).is_dir():
        yield from _walk(str(Path(root) / folder), f"{folder}/" if folder else "")


def has_folder(root: str | Path, folder: str) -> bool:
    """Whether there is anything in root/folder."""
    return next(list_files(root, folder), None) is not None


def _walk(directory: str, prefix: str) -> Iterator[str]:
    for entry in list_folder(directory):
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise DavssError(
                f"{directory}/{entry.name!a}: its name is not UTF-8; rename it"
            ) from None
        if _is_folder(entry):
            yield from _walk(entry.path, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name


def list_folder(directory: str | Path) -> list[os.DirEntry[str]]:
    """What a folder of this machine holds but hidden files, sorted; DavssError if it may not be
    read.
    """
    try:
        with os.scandir(directory) as entries:
            seen = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise _unlisted(str(directory), error) from None
    return sorted(seen, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link that leads back to a folder above it
        raise _unlisted(entry.path, error) from None


def _unlisted(directory: str, error: OSError) -> DavssError:
    return DavssError(
        f"{directory}: cannot be listed ({error.strerror}); fix its permissions or leave it out "
        "of the corpus"
    )
