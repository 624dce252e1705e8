"""Where bulky or resumable things lie, and how files appear whole or not at all."""

from davss.storage.files import publish, sha256
from davss.storage.store import S3, Entry, Store
from davss.storage.stores import VARIABLE, LocalStore, open_storage, open_store

__all__ = [
    "S3",
    "VARIABLE",
    "Entry",
    "LocalStore",
    "Store",
    "open_storage",
    "open_store",
    "publish",
    "sha256",
]
