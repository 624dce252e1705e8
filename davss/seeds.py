"""Numbers that depend on a text alone, the same on every machine: for seeds, splits and orders."""

import hashlib
from typing import Literal


def number_of(text: str, order: Literal["little", "big"] = "little") -> int:
    """The first 64 bits of the text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], order)
