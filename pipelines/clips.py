"""Where the stages find clips: the shards of the corpora below data/shards."""

from __future__ import annotations

from pathlib import Path

from davss.config import SPEECH_CORPUS
from davss.evaluation.mixtures import Library
from davss.shards.reader import ShardReader
from davss.storage import shard_store


def open_shards(corpus: str, split: str = "test") -> ShardReader:
    """The clips of a split of data/shards/CORPUS."""
    return ShardReader(Path("data/shards") / corpus, shard_store(), split)


def open_library(condition: str) -> Library:
    """What the mixtures of a condition are made of."""
    return Library((open_shards(SPEECH_CORPUS),), {condition: open_shards(condition)})
