"""What `davss separate` is given: files, folders and pipes, their sound, and the lips beside it.

Shapes: T samples · V video frames · D visual feature size.
"""

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from davss.diffusion.prior import SpeechPrior
from davss.errors import DavssError, say
from davss.media import FPS
from davss.media.audio import read_sound, require_sound
from davss.media.decoding import has_stream, is_recording, require_file, sound_start
from davss.media.mouth import MouthFinder
from davss.media.video import NEAR_FPS, Frames
from davss.posterior.inputs import SHORTEST, SILENCE

STDIN = Path("-")
ALONE = "or separate {}by its sound alone with --speakers 1"


@dataclass
class Recording:
    """A recording's sound: samples (T,) at its own rate in Hz, less their mean, `offset`, and when
    they begin, in s on the file's clock. `notes` collects what the user should know, `warnings`
    what may be wrong.
    """

    path: Path
    audio: np.ndarray
    offset: float
    rate: int
    start: float
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.audio) / self.rate

    def print(self, name: Path) -> None:
        """Say all of it on stderr, about the recording as it was given."""
        self.warnings = [line.replace(str(self.path), str(name)) for line in self.warnings]
        for line in [f"note: {note}" for note in self.notes]:
            say(line.replace(str(self.path), str(name)))
        for warning in self.warnings:
            say(f"warning: {warning}")


def find_recordings(inputs: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Every recording with the folder for its results: `out` for one, and for several, or all of a
    folder, a folder of its name below `out`, with the ending where that alone sets two apart. What
    is given twice counts once. DavssError where two would share a folder.
    """
    paths: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            paths.append(path)
            continue
        try:
            files = sorted(file for file in path.iterdir() if not file.is_dir())
        except PermissionError as error:
            raise DavssError(f"{path}: {error.strerror}; fix its permissions") from None
        found = [file for file in files if is_recording(file)]
        if not found:
            for file in files:
                require_file(file)  # what keeps it from being read, if it is that
            raise DavssError(f"{path}: no recording in this folder; give one that holds some")
        if others := [file.name for file in files if file not in found]:
            say(f"note: {path}: without sound, left out: {', '.join(others)}")
        paths += found
    unique: dict[Path, Path] = {}
    for path in paths:
        unique.setdefault(path.resolve(), path)
    found = list(unique.values())
    if len(found) == 1 and not any(path.is_dir() for path in inputs):
        return [(found[0], out)]
    stems = Counter([".", "..", *(path.stem for path in found)])
    places: dict[str, Path] = {}
    for path in found:
        name = path.stem if stems[path.stem] == 1 else path.name
        if (other := places.setdefault(name, path)) != path:
            raise DavssError(
                f"{other}, {path}: both would be written to {out / name}; separate them one at a "
                "time"
            )
    return [(path, out / name) for name, path in places.items()]


@contextmanager
def on_disk(path: Path) -> Iterator[Path]:
    """A file that may be gone through twice: what comes through a pipe, or as `-` through standard
    input, is copied first, and messages name what was given.
    """
    if path != STDIN and (path.is_file() or path.is_dir() or not path.exists()):
        yield path
        return
    if path == STDIN and sys.stdin.isatty():
        raise DavssError("-: standard input is a terminal; send a recording through a pipe")
    if path != STDIN and path.is_char_device():
        raise DavssError(f"{path}: a device, which may never end; give a file or a pipe")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stdin"
        with open(copy, "wb") as target:
            if path == STDIN:
                shutil.copyfileobj(sys.stdin.buffer, target)
            else:
                with open(path, "rb") as source:
                    shutil.copyfileobj(source, target)
        try:
            yield copy
        except DavssError as error:
            raise DavssError(str(error).replace(str(copy), str(path))) from None


def read_recording(path: Path, channel: int | None = None) -> Recording:
    """The sound of a recording; DavssError when there is none to separate."""
    sound = read_sound(path)
    audio, warning = sound.mono(channel)
    offset = np.float32(audio.mean(dtype=np.float64))
    audio -= offset  # in place, as all that is done with what may be an hour long
    recording = Recording(path, audio, float(offset), sound.rate, sound.start)
    recording.warnings += [warning] if warning else []
    if sound.missing:
        recording.warnings.append(f"{sound.missing}; separating what there is")
    if sound.tracks > 1:
        recording.warnings.append(
            f"{path}: {sound.tracks} tracks of sound, number {sound.track} is separated; another: "
            "`ffmpeg -i IN -map '0:v?' -map 0:a:NUMBER -c copy OUT.mkv`, all together: "
            f"`ffmpeg -i IN -filter_complex amix=inputs={sound.tracks}:normalize=0 OUT.wav`"
        )
    if sound.missing and np.ptp(audio) <= SILENCE:
        raise DavssError(f"{sound.missing}, all of it silence; look for another copy of it")
    if recording.seconds < SHORTEST:
        raise DavssError(f"{path}: lasts {recording.seconds:.3f} s; give at least {SHORTEST:g} s")
    if channel is None:
        require_sound(audio, path, SILENCE)
    elif np.ptp(audio) <= SILENCE:
        raise DavssError(f"{path}: channel {channel} is silent; give another or none")
    return recording


def plan_speakers(
    recording: Path, lips: Sequence[Path], num_speakers: int | None, num_off_screen: int
) -> tuple[list[Path], int]:
    """Face videos, and the number of speakers with or without one."""
    if num_off_screen < 0 or (num_speakers is not None and num_speakers < 0):
        raise DavssError("--speakers, --off-screen: give a number of speakers, 0 or more")
    if not lips and num_speakers is None:
        if has_stream(recording, "video"):
            lips = [recording]
        elif num_off_screen == 0:
            num_speakers = 1
    if lips and num_speakers not in (None, len(lips)):
        raise DavssError(
            f"--speakers {num_speakers}: {len(lips)} --lips were given; for more speakers than "
            f"faces use --off-screen"
        )
    seen = len(lips) if lips else (num_speakers or 0)
    return list(lips), seen + num_off_screen


def read_lips(path: Path, prior: SpeechPrior, recording: Recording) -> np.ndarray:
    """Lip features (V, D) of a face video for the whole recording, NaN where it shows nothing.

    A video in the recording's own file is placed by its time stamps; another file's sound, or
    without sound its picture, begins with the recording.
    """
    own, needed = path == recording.path, round(recording.seconds * FPS)
    try:
        start = recording.start if own else sound_start(require_file(path))
        frames = Frames(path, start, needed)
        crops = MouthFinder()(frames, str(path)).crops
    except DavssError as error:
        way_on = ALONE.format("it " if own else "the recording ")
        raise DavssError(f"{error}; {way_on}") from None
    features = prior.visual_encoder(crops)
    lips = np.full((needed, features.shape[1]), np.nan, features.dtype)
    lips[frames.first : frames.first + len(frames)] = np.where(
        frames.seen[:, None], features, np.nan
    )
    say_about_frames(frames, path, recording)
    unseen = np.isnan(lips[:, 0]).sum() / FPS
    if unseen:
        recording.notes.append(f"{path}: no picture for {unseen:.2f} s, separated without lips")
    return lips


def say_about_frames(frames: Frames, path: Path, recording: Recording) -> None:
    """Note what is odd about a video."""
    if abs(frames.fps - FPS) > NEAR_FPS:
        recording.notes.append(
            f"{path}: {frames.fps:.5g} frames per second; of each 1/25 s the nearest frame is taken"
        )
    if frames.tracks > 1:
        recording.warnings.append(
            f"{path}: {frames.tracks} tracks of pictures, number {frames.track} is looked at; "
            "another: `ffmpeg -i IN -map 0:v:NUMBER -map '0:a?' -c copy OUT.mkv`"
        )
    if frames.missing:
        recording.warnings.append(f"{frames.missing}; using what there is")
