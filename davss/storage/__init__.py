"""Where bulky or resumable things lie, and how files appear whole or not at all."""

from davss.storage.files import publish, sha256
from davss.storage.store import S3, Entry, Store
from davss.storage.stores import (
    STATE,
    VARIABLE,
    LocalStore,
    open_store,
    shard_store,
    storage_root,
)

__all__ = [
    "S3",
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
