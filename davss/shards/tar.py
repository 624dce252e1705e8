"""Samples of a tar file, member by member; whatever the contract does not know is refused.

webdataset's own reader passes over members that it does not understand and words errors for
programmers; shuffling and the rest of its pipeline are used as they are.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from davss.errors import DavssError
from davss.shards.contract import AUDIO, LIPS, META, is_key

MEND = "run the shards stage again"
_KNOWN = {AUDIO, LIPS, META}


def read_samples(stream: BinaryIO, location: str) -> Iterator[dict[str, Any]]:
    """Samples as webdataset knows them, `__key__` and the raw bytes of each member.

    Raises DavssError naming `location` for what is no tar file or was cut short, and for members
    that are no plain files, have other names than a shard's, or come twice.
    """
    sample: dict[str, Any] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                key, suffix = member_name(member, location)
                if sample and key != sample["__key__"]:
                    yield sample
                    sample = {}
                if suffix in sample:
                    raise DavssError(f"{location}: {member.name} comes twice; {MEND}")
                data = archive.extractfile(member)
                sample |= {"__key__": key, suffix: data.read() if data else b""}
                archive.members = []  # type: ignore[attr-defined]  # it would remember them all
    except (tarfile.TarError, EOFError, OSError):
        raise DavssError(f"{location}: not a readable shard; {MEND}") from None
    if sample:
        yield sample


def member_name(member: tarfile.TarInfo, location: str) -> tuple[str, str]:
    """Key and suffix of a member; DavssError unless it is a plain file of the contract."""
    key, _, suffix = member.name.partition(".")
    if not member.isreg() or not is_key(key) or suffix not in _KNOWN:
        raise DavssError(f"{location}: member {member.name!r} is none of a shard's; {MEND}")
    return key, suffix
