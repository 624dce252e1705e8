"""Where the members of a sample lie in a shard; a sample read from there, its headers checked.

The places are columns of the clips manifest, so that no reader walks through a tar file: of a
million clips in a thousand shards each is one seek away.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import pandas

from davss.errors import DavssError
from davss.shards.contract import AUDIO, LIPS, META, is_key

# Of a sample without lips both their numbers are 0.
PLACES = [
    f"{member}_{what}" for member in ("audio", "lips", "meta") for what in ("offset", "bytes")
]
BLOCK = 512  # a member has one as its header and fills its last one
MEND = "run the shards stage again"


def places_of(sample: dict[str, Any], start: int) -> dict[str, int]:
    """Offsets and sizes of the members of a sample that is written at byte `start`, by column."""
    places: dict[str, int] = {}
    for member, suffix in zip(("audio", "lips", "meta"), (AUDIO, LIPS, META), strict=True):
        size = len(sample.get(suffix, b""))
        places |= {f"{member}_offset": start + BLOCK if size else 0, f"{member}_bytes": size}
        start += BLOCK + _filled(size) if size else 0
    return places


def _filled(size: Any) -> Any:
    return -(-size // BLOCK) * BLOCK


def first_misplaced(clips: pandas.DataFrame) -> str | None:
    """Key of the first clip whose members do not follow one another as in a tar file, or None."""
    places = clips[PLACES].to_numpy()
    offset, size = places[:, 0::2], places[:, 1::2]
    ends = offset + _filled(size) + BLOCK  # where the next member's content begins
    has_lips = size[:, 1] > 0
    good = ((places >= 0) & (places < 1 << 48)).all(1)  # so that no sum runs over
    good &= (offset[:, 0] >= BLOCK) & (offset[:, 0] % BLOCK == 0) & (size[:, [0, 2]] > 0).all(1)
    good &= offset[:, 1] == np.where(has_lips, ends[:, 0], 0)
    good &= offset[:, 2] == np.where(has_lips, ends[:, 1], ends[:, 0])
    return None if good.all() else str(clips.key.iloc[int(good.argmin())])


def read_sample(stream: BinaryIO, places: Sequence[int], location: str) -> dict[str, Any]:
    """A sample as webdataset knows it, `__key__` and the raw bytes of each member, from a file that
    can be sought in; `places` are the PLACES of its row. DavssError names `location`.
    """
    start, end = extent(places)
    if end > os.fstat(stream.fileno()).st_size:
        raise DavssError(f"{location}: shorter than its manifest says; {MEND}")
    stream.seek(start)
    return take_apart(stream.read(end - start), places, location)


def extent(places: Sequence[int]) -> tuple[int, int]:
    """First byte of a sample in its shard, and the byte behind its last member."""
    return int(places[0]) - BLOCK, int(places[-2] + places[-1])


def take_apart(data: bytes, places: Sequence[int], location: str) -> dict[str, Any]:
    """A sample from its bytes, of which `places` tell the members."""
    start, _ = extent(places)
    sample: dict[str, Any] = {}
    for suffix, offset, size in zip((AUDIO, LIPS, META), places[0::2], places[1::2], strict=True):
        if size:
            first = int(offset) - start
            key = _key(data[first - BLOCK : first], suffix, int(size), location)
            if sample.setdefault("__key__", key) != key:
                raise DavssError(f"{location}: members of {key} are not together; {MEND}")
            sample[suffix] = data[first : first + int(size)]
    return sample


def _key(header: bytes, suffix: str, size: int, location: str) -> str:
    """Key of the member whose header this is; DavssError unless it is a plain file of that suffix
    and size: webdataset would pass over what it does not know.
    """
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError):
        raise DavssError(f"{location}: not a readable shard; {MEND}") from None
    key, _, found = member.name.partition(".")
    if not member.isreg() or not is_key(key) or (found, member.size) != (suffix, size):
        raise DavssError(
            f"{location}: member {member.name!r} is not what the manifest says; {MEND}"
        )
    return key
