"""Contact sheets: mouth crops over time of a few clips of a split, to be looked at by people."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError, StorageError
from davss.seeds import number_of
from davss.shards.contract import SPLITS
from davss.shards.sample import Mouths, read_mouth
from davss.shards.sources import on_this_machine
from davss.storage import publish

CLIPS, COLUMNS, LABEL = 8, 10, 16  # rows of a sheet, crops in a row, pixels for a line of text
_SPARE = 8  # clips more than that are watched, for some are rejected


class Watched:
    """Clips as they come, of which the few with video that a sheet shows are remembered.

    They are the first in the order of a hash of their keys: the same ones for the same corpus.
    """

    def __init__(self, clips: Iterable[RawClip]) -> None:
        self._clips = clips
        self._first: dict[str, list[tuple[int, str, RawClip]]] = {split: [] for split in SPLITS}

    def __iter__(self) -> Iterator[RawClip]:
        for clip in self._clips:
            if clip.video is not None:
                self._remember(clip)
            yield clip

    def of(self, split: str) -> list[RawClip]:
        """The remembered clips of a split."""
        return [clip for _, _, clip in sorted(self._first[split], key=lambda item: -item[0])]

    def _remember(self, clip: RawClip) -> None:
        heap = self._first[clip.split]
        place = number_of(f"sheet {clip.key}", "big")
        push = heapq.heappushpop if len(heap) >= CLIPS + _SPARE else heapq.heappush
        push(heap, (-place, clip.key, clip))


def write_sheets(watched: Watched, config: ShardsConfig, folder: Path) -> list[Path]:
    """Write `folder/SPLIT.faces.jpg` of every split with video, and return their paths."""
    written = []
    for split in SPLITS:
        rows = list(_rows(watched.of(split), config))
        if rows:
            path = folder / f"{split}.faces.jpg"
            image = np.concatenate(rows)
            _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])
            with publish(path) as temporary:
                temporary.write_bytes(data.tobytes())
            written.append(path)
    return written


def _rows(clips: list[RawClip], config: ShardsConfig) -> Iterator[np.ndarray]:
    count = 0
    for clip in clips:
        if count == CLIPS:
            return
        try:
            with TemporaryDirectory() as scratch, on_this_machine(clip, Path(scratch)) as local:
                mouths = read_mouth(local, config)
        except StorageError:
            raise  # the fault of no clip
        except DavssError:
            continue  # a reject, whose reason is in rejects.parquet
        count += 1
        yield _row(clip.key, mouths)


def _row(key: str, mouths: Mouths) -> np.ndarray:
    """One clip, uint8 (16 + 96, 960): a line of text over crops at equal distances in time."""
    crops = mouths.crops[np.linspace(0, len(mouths.crops) - 1, COLUMNS).round().astype(int)]
    label = np.full((LABEL, COLUMNS * crops.shape[2]), 255, np.uint8)
    text = f"{key}  {len(mouths.crops)} frames"
    if mouths.quality:
        share, jitter = mouths.quality["share"], mouths.quality["jitter"]
        text += f"  face in {100 * share:.0f} %  jitter {jitter:.2f} px"
    cv2.putText(label, text, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 0, 1, cv2.LINE_AA)
    return np.concatenate([label, np.concatenate(list(crops), axis=1)])
