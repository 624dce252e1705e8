"""The people that a recording shows: who speaks, whose lips are of use, and whose voice is whose.

Shapes: V video frames at 25 per second · D visual feature size · T samples · K sources.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from davss.cli.inputs import ALONE, Recording, say_about_frames
from davss.diffusion.prior import SpeechPrior
from davss.errors import DavssError
from davss.media import FPS
from davss.media.audio import resample
from davss.media.decoding import require_file
from davss.media.mouth import MAX_TURNED
from davss.media.people import MOVES, Person, Place, boxes, find_people, people_at, spans
from davss.media.video import Frames
from davss.networks.agreement import Verdict, agreement, assign, envelope, judge, shifted, talking
from davss.networks.lipsound import LipSound

AGREES = 0.15  # correlation of the mouth and the sound; less, and the face belongs to another voice
LONG = 250  # frames in which that can be told
CLEAR = 0.05  # by how much one order of voices must be better to be believed
SHORTEST = 12  # frames of a stretch whose lips are used


@dataclass(eq=False)  # one is another only if it is the same: arrays have no truth
class Face:
    """One face: `speaks`, and if so its lip features (V, D), NaN where they are not seen, which are
    None where they are of no use, for the reason `why`.
    """

    person: Person
    speaks: bool
    agreement: float
    lips: np.ndarray | None = None
    why: str = ""
    verdict: Verdict | None = None
    mouth: np.ndarray = field(default_factory=lambda: np.empty((0, 1)))


@dataclass
class Cast:
    """All faces of a recording, whose video begins `shift` frames after its sound.

    `order` are the numbers of the separated sources, speaker by speaker as they are written: those
    with lips come first for the separator, in the recording people come as they are seen.
    """

    faces: list[Face] = field(default_factory=list)
    shift: int = 0
    num_off_screen: int = 0

    @property
    def speakers(self) -> list[Face]:
        """The faces that speak."""
        return [face for face in self.faces if face.speaks]

    @property
    def num_speakers(self) -> int:
        """Voices to find: one where nobody is seen to speak."""
        return max(len(self.speakers) + self.num_off_screen, 1)

    @property
    def lips(self) -> np.ndarray | None:
        """Features (L, V, D) of those whose lips are used."""
        found = [face.lips for face in self.speakers if face.lips is not None]
        return np.stack(found) if found else None

    def order(self, sources: np.ndarray, sample_rate: int) -> tuple[list[int], str]:
        """Numbers of the separated sources (K, T), speaker by speaker, and a warning or "": those
        without lips are told apart by the motion of mouths.
        """
        with_lips = [index for index, face in enumerate(self.speakers) if face.lips is not None]
        blind = [index for index, face in enumerate(self.speakers) if face.lips is None]
        free = list(range(len(with_lips), len(sources)))
        sounds = [
            envelope(sources[index], sample_rate, round(len(sources[index]) / sample_rate * FPS))
            for index in free
        ]
        num = min((len(sound) for sound in sounds), default=0)
        mouths = [self.speakers[index].mouth[:num] for index in blind]
        chosen, margin = assign(mouths, [sound[:num] for sound in sounds])
        places = dict(zip(with_lips, range(len(with_lips)), strict=True))
        places |= {index: free[number] for index, number in zip(blind, chosen, strict=True)}
        rest = [number for number in range(len(sources)) if number not in places.values()]
        order = [places[index] for index in range(len(self.speakers))] + rest
        unclear = blind and len(free) > 1 and margin < CLEAR
        names = ", ".join(f"speaker_{index + 1}" for index in blind)
        return order, f"whose voice is whose is not clear: {names}" if unclear else ""

    def report(self) -> list[dict[str, Any]]:
        """What separation.json says of each face; `--faces` reads the same."""
        rows, speaker = [], 0
        for face in self.faces:
            speaker += face.speaks
            verdict = face.verdict
            rows.append(
                {
                    "speaker": speaker if face.speaks else None,
                    "lips": face.lips is not None,
                    "why": face.why,
                    "mouth_motion": round(face.person.motion, 4),
                    "agreement": round(face.agreement, 3),
                    "explained": None if verdict is None else round(verdict.correlation, 3),
                    "by_chance": None if verdict is None else round(verdict.chance, 3),
                    "picture_late_by": verdict.lag / FPS if verdict and verdict.explains else None,
                    "times": [[a + self.zero, b + self.zero] for a, b in spans(face.person)],
                    "boxes": [[t + self.zero, *box] for t, *box in boxes(face.person)],
                }
            )
        return rows

    @property
    def zero(self) -> float:
        """When the video's first frame is shown, in s of the recording."""
        return self.shift / FPS


def find_cast(
    path: Path,
    prior: SpeechPrior,
    recording: Recording,
    num_off_screen: int = 0,
    given: Path | None = None,
) -> Cast:
    """The people seen in a recording's own picture, or those that a file `given` by hand names.

    What is of note goes to the recording's notes. DavssError for a file that cannot be used.
    """
    cast, said = find_faces(path, recording, given)
    cast.num_off_screen = num_off_screen
    num = round(recording.seconds * FPS)
    audio = resample(recording.audio, recording.rate, prior.sample_rate)
    lips = [_read_lips(face.person, prior, num, cast.shift) for face in cast.speakers]
    for index, face in enumerate(cast.speakers):
        asked = said[cast.faces.index(face)].get("lips") if said else None
        others = lips[:index] + lips[index + 1 :]
        _give_lips(face, prior, audio, lips[index], others, asked)
        if face.lips is None:
            recording.notes.append(f"{path}: speaker_{index + 1} without lips: {face.why}")
    _say(cast, path, recording)
    return cast


def find_faces(
    path: Path, recording: Recording, given: Path | None = None
) -> tuple[Cast, list[dict[str, Any]]]:
    """The same people before anything is known of their lips, and what `given` says of each."""
    try:
        frames = Frames(path, recording.start, round(recording.seconds * FPS))
    except DavssError as error:
        raise DavssError(f"{error}; {ALONE.format('it ')}") from None
    say_about_frames(frames, path, recording)
    said: list[dict[str, Any]] = []
    if given is None:
        people = find_people(frames)
    else:
        people, said = _given(given, frames)
    loudness = envelope(recording.audio, recording.rate, round(recording.seconds * FPS))
    faces = [
        _face(person, loudness, said[index] if said else {}, frames.first)
        for index, person in enumerate(people)
    ]
    return Cast(faces, frames.first), said


def _face(person: Person, loudness: np.ndarray, said: dict[str, Any], first: int) -> Face:
    mouth = talking(first + person.frames, person.gap, len(loudness))
    agrees = agreement(mouth, loudness)
    speaks, why = person.motion >= MOVES, ""
    if not speaks:
        why = "its mouth does not move"
    elif agrees < AGREES and len(person.frames) >= LONG:
        speaks, why = False, "its mouth does not move with the sound"
    if said.get("speaker", 0) is None or said.get("speaks") is False:
        speaks, why = False, "said so by --faces"
    elif said:
        speaks, why = True, ""
    return Face(person, speaks, agrees, why=why, mouth=mouth)


def _read_lips(person: Person, prior: SpeechPrior, num: int, first: int) -> np.ndarray:
    """Lip features (V, D) for `num` frames of sound, NaN where they are not seen."""
    lips = np.full((num, prior.visual_encoder.dim), np.nan, np.float32)
    for sight in person.sights:
        inside = (sight.frames + first < num).sum()
        if inside >= min(SHORTEST, num):
            features = prior.visual_encoder(sight.crops)
            lips[sight.frames[:inside] + first] = features[:inside]
    return lips


def _give_lips(
    face: Face,
    prior: SpeechPrior,
    audio: np.ndarray,
    lips: np.ndarray,
    others: list[np.ndarray],
    asked: bool | None,
) -> None:
    """Lip features where they are of use, else the reason why not; `asked` decides, if given.
    `others` are the features of those who speak besides.
    """
    person = face.person
    if asked is False:
        face.why = "said so by --faces"
        return
    if asked is None and person.turned > MAX_TURNED:
        face.why = f"it is seen from the side in {100 * person.turned:.0f} % of its frames"
        return
    if np.isnan(lips).all():
        face.why = "it is seen too briefly"
        return
    if isinstance(prior.visual_encoder, LipSound):
        face.verdict = judge(lips, audio, prior.sample_rate, others)
        if face.verdict.lag:
            lips = shifted(lips, face.verdict.lag)
        if asked is None and not face.verdict.explains:
            face.why = (
                "to the speech prior they do not explain the sound (correlation "
                f"{face.verdict.correlation:.2f}, by chance {face.verdict.chance:.2f})"
            )
            return
    face.lips = lips


def _say(cast: Cast, path: Path, recording: Recording) -> None:
    if not cast.faces:
        recording.notes.append(f"{path}: no face is found; separated by its sound alone")
    still = [face for face in cast.faces if not face.speaks]
    for face in still:
        start, end = spans(face.person)[0]
        recording.notes.append(
            f"{path}: a face from {start + cast.zero:.1f} to {end + cast.zero:.1f} s is taken for "
            f"no speaker: {face.why}"
        )
    if cast.faces and not cast.speakers:
        recording.notes.append(f"{path}: nobody is seen to speak; separated by its sound alone")
    for index, face in enumerate(cast.speakers):
        if face.lips is not None and face.verdict is not None and face.verdict.lag:
            recording.notes.append(
                f"{path}: speaker_{index + 1}: its picture is {abs(face.verdict.lag) / FPS:.2f} s "
                f"{'late' if face.verdict.lag > 0 else 'early'} and moved to the sound"
            )
        absent = 1 - len(face.person.frames) / max(len(face.mouth), 1)
        if face.lips is not None and absent > 1 / len(face.mouth):
            seconds = absent * len(face.mouth) / FPS
            recording.notes.append(
                f"{path}: speaker_{index + 1}: no face for {seconds:.2f} s, separated without lips "
                "there"
            )


def _given(path: Path, frames: Frames) -> tuple[list[Person], list[dict[str, Any]]]:
    """The people of a list of faces, and its rows."""
    rows = read_faces(path)
    zero = frames.first / FPS
    places = [_place(row, zero, f"{path}: face {number}") for number, row in enumerate(rows)]
    found = people_at(frames, places)
    for number, person in enumerate(found):
        if person is None:
            raise DavssError(f"{path}: face {number}: no face is found there; correct its boxes")
    return [person for person in found if person is not None], rows


def read_faces(path: Path) -> list[dict[str, Any]]:
    """The faces of a separation.json, or a list of them; DavssError says what is wrong with it."""
    try:
        content = json.loads(require_file(path).read_text("utf-8-sig"))
    except ValueError:
        raise DavssError(f"{path}: not JSON; give the separation.json of an earlier run") from None
    rows = content.get("faces") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DavssError(f"{path}: no list of faces; give one like `faces` in a separation.json")
    return rows


def _place(row: dict[str, Any], zero: float, name: str) -> Place:
    try:
        places = np.array(sorted(row["boxes"]), float)
        times = np.array(row["times"], float).reshape(-1, 2) - zero
    except (KeyError, TypeError, ValueError):
        places = times = np.empty((0, 0))
    if places.ndim != 2 or places.shape[-1:] != (5,) or not len(times):
        raise DavssError(
            f"{name}: give times, [[start, end], ...], and boxes, [[time, left, top, width, "
            "height], ...], in seconds and pixels"
        )
    if not (np.isfinite(places).all() and np.isfinite(times).all() and (places[:, 3:] > 0).all()):
        raise DavssError(f"{name}: a box has no size; give numbers of pixels")
    places[:, 0] -= zero
    stretches = [(max(round(a * FPS), 0), round(b * FPS)) for a, b in times]
    return Place(stretches, places)


def thumbnails(path: Path, recording: Recording, faces: Sequence[Face]) -> list[np.ndarray]:
    """A picture RGB uint8 (H, W, 3) of each face, from the middle of its longest stretch."""
    frames = Frames(path, recording.start, round(recording.seconds * FPS))
    wanted: dict[int, list[int]] = {}
    places = []
    for index, face in enumerate(faces):
        sight = max(face.person.sights, key=lambda one: len(one.frames))
        frame = int(sight.frames[len(sight.frames) // 2])
        wanted.setdefault(frame, []).append(index)
        places.append(sight.box(frame))
    pictures: list[np.ndarray] = [np.empty(0)] * len(faces)
    for number, picture in enumerate(frames):
        for index in wanted.get(number, []):
            left, top, width, height = places[index]
            x, y, side = left + width // 2, top + height // 2, int(0.8 * max(width, height))
            rows = slice(max(y - side, 0), y + side)
            pictures[index] = picture[rows, max(x - side, 0) : x + side].copy()
        if number >= max(wanted, default=0):
            break
    return pictures
