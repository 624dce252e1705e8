"""What `--mux` and `--preview` write beside the sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from davss.cli.faces import Cast, thumbnails
from davss.cli.inputs import Recording
from davss.cli.muxing import loudest, mux, video_suffix
from davss.cli.output import PREVIEW
from davss.cli.preview import LONGEST, write_preview
from davss.errors import DavssError


@dataclass
class Beside:
    """The files beside the sources: `videos` by the name of the track they are made with, and the
    page.
    """

    video: Path
    start: float
    videos: Mapping[str, str]
    preview: bool
    mixture: tuple[np.ndarray, int]
    faces: Mapping[str, np.ndarray]
    seconds: float
    notes: Sequence[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.videos.values(), *([PREVIEW] if self.preview else [])]

    def write(self, folder: Path, report: Mapping[str, Any]) -> None:
        """Into the folder of the sources."""
        peak = loudest(folder / track for track in self.videos)
        for track, name in self.videos.items():
            mux(self.video, folder / track, self.start, folder / name, peak)
        if self.preview:
            sources = [name for name in report["files"] if name.endswith(".wav")]
            files = {Path(name).stem: folder / name for name in sources}
            title = Path(report["input"]).name
            notes = [*self.notes, *report["warnings"]]
            notes = [note.replace(report["input"], title) for note in notes]
            where = folder / PREVIEW
            sure = report.get("confidence", {})
            write_preview(where, title, self.mixture, files, self.faces, self.seconds, notes, sure)


def plan_extras(
    given: Path,
    file: Path,
    sound: Recording,
    cast: Cast,
    num_speakers: int,
    with_videos: bool,
    with_preview: bool,
) -> Beside:
    """What is wanted beside the sources of a recording, `given` and as a `file`; what the page
    shows of the recording is taken now. DavssError where that cannot be.
    """
    videos = {}
    if with_videos:
        if given != file:
            raise DavssError(f"--mux: {given} is a pipe; save it to a file first, or leave it out")
        suffix = video_suffix(file)
        names = [f"speaker_{k + 1}" for k in range(num_speakers)]
        videos = {f"{name}.wav": f"{name}{suffix}" for name in names}
    pictures: dict[str, np.ndarray] = {}
    mixture = np.empty(0), sound.rate
    if with_preview:
        mixture = sound.audio[: LONGEST * sound.rate].copy(), sound.rate
        if cast.speakers:
            shown = thumbnails(file, sound, cast.speakers)
            pictures = {f"speaker_{k + 1}": picture for k, picture in enumerate(shown)}
    notes = [note.replace(str(file), str(given)) for note in sound.notes]
    return Beside(file, sound.start, videos, with_preview, mixture, pictures, sound.seconds, notes)
