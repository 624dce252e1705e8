"""Where the stages find clips and mixtures: below data/shards and data/mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from davss.config import SPEECH_CORPUS
from davss.evaluation.mixtures import Library, rows_of
from davss.evaluation.records import read_manifest
from davss.shards.reader import ShardReader
from davss.storage import open_storage


def open_shards(corpus: str, split: str = "test") -> ShardReader:
    """The clips of a split of data/shards/CORPUS."""
    return ShardReader(Path("data/shards") / corpus, open_storage(), split)


def open_library(condition: str) -> Library:
    """What the mixtures of a condition are made of."""
    return Library((open_shards(SPEECH_CORPUS),), {condition: open_shards(condition)})


def read_mixtures(condition: str) -> list[dict[str, Any]]:
    """The rows of the mixtures stage."""
    path = Path("data/mixtures") / f"{condition}.parquet"
    made = f"dvc repro mixtures@{condition}"
    return list(rows_of(read_manifest(path, made, ("pool", "speaker_seen"))))
