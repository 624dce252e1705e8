"""What the faces of a corpus look like to the shards stage: figures and contact sheets by split."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas

from davss.shards.contract import SPLITS

SHEET = "{split}.faces.jpg"  # beside the manifests


@dataclass(frozen=True)
class Faces:
    """Of the clips of a split with video: means over clips, and the sheet as a data URL.

    share: frames with the face; score: certainty of the face network, 0 to 1; jitter: RMS of the
    second difference of the stable landmarks, in pixels; several: clips with other faces in view.
    """

    split: str
    clips: int
    rejects: int
    share: float
    score: float
    jitter: float
    several: int
    sheet: str


def read_faces(manifests: Path) -> Sequence[Faces]:
    """The splits of a corpus that have video; none where the manifests know nothing of faces."""
    rejects = manifests / "rejects.parquet"
    fallen = pandas.read_parquet(rejects) if rejects.is_file() else pandas.DataFrame({"split": []})
    found = []
    for split in SPLITS:
        clips, sheet = manifests / f"{split}.clips.parquet", manifests / SHEET.format(split=split)
        if not (clips.is_file() and sheet.is_file()):
            continue
        rows = pandas.read_parquet(clips)
        rows = rows[rows.share.notna()]
        found.append(
            Faces(
                split=split,
                clips=len(rows),
                rejects=int((fallen.split == split).sum()),
                share=float(rows.share.mean()),
                score=float(rows.score.mean()),
                jitter=float(rows.jitter.mean()),
                several=int((rows.faces > 1).sum()),
                sheet="data:image/jpeg;base64," + base64.b64encode(sheet.read_bytes()).decode(),
            )
        )
    return found
