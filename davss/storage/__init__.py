"""Where bulky or resumable things lie, and how files appear whole or not at all."""

from davss.storage.files import publish, sha256
from davss.storage.stores import (
    STATE,
    VARIABLE,
    Entry,
    LocalStore,
    Store,
    open_store,
    shard_store,
    storage_root,
)

__all__ = [
    "STATE",
    "VARIABLE",
    "Entry",
    "LocalStore",
    "Store",
    "open_store",
    "publish",
    "sha256",
    "shard_store",
    "storage_root",
]
