"""Lips of damaged videos: mouth crops are found as for shards, damaged, and encoded again.

What is damaged are the crops: that a face is still found is taken for granted.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from davss.config import ShardsConfig
from davss.corpora import RawClip, place
from davss.errors import DavssError
from davss.evaluation.damage import damaged_picture
from davss.networks.eigenlips import VisualEncoder
from davss.shards.contract import Clip
from davss.shards.sample import read_recording


@dataclass(frozen=True)
class Videos:
    """Videos of a corpus below the folder `root`, whose shards were made with `config` and
    `encoder`.
    """

    root: str
    config: ShardsConfig
    encoder: VisualEncoder

    def __call__(
        self, clip: Clip, text: str, first: int, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Lips (V, D) of all of a clip, the `count` frames from `first` damaged as `text` says."""
        mouths = _mouths(self.root, clip.meta["source"], self.config)[: clip.meta["num_frames"]]
        return self.encoder(damaged_picture(text, mouths, first, count, rng))


@functools.lru_cache(maxsize=200)  # 0.7 MB for 3 s
def _mouths(root: str, source: str, config: ShardsConfig) -> np.ndarray:
    """Crops (V, 96, 96) uint8."""
    path = place(root, source)
    raw = RawClip(source, "test", "someone", source, path, path)
    found = read_recording(raw, config, with_mouth=True)
    if found.mouth is None:
        raise DavssError(f"{path}: shows no mouth; damage the sound")
    return found.mouth
