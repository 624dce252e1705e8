"""The demo corpora: VoxCeleb2, WHAM! and DNS in their official layouts, made from a few recordings.

Faces are drawn (`demo_face`) and speak recorded prompts (`demo_speech`); noises are real scenes.
What is written depends on the settings and names alone, never on the number of workers.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile

from davss.config import DemoConfig
from davss.corpora.demo_face import Portrait
from davss.corpora.demo_head import draw_identity
from davss.corpora.demo_speech import RATE, cut_clips, motion_of_speech, speech_stream
from davss.errors import DavssError
from davss.media.audio import read_audio, require_sound, resample
from davss.processes import in_processes
from davss.seeds import number_of

CLIPS_PER_SESSION = 6
WHAM_SPLITS = {"tr": (0.0, 0.7), "cv": (0.7, 0.8), "tt": (0.8, 1.0)}
WHAM_SECONDS, DNS_SECONDS = 6.0, 10.0  # about the length of a file
DNS_RATE = 48_000
NOISE_LEVEL = 10 ** (-28 / 20)  # RMS, full scale 1


@dataclass(frozen=True)
class Session:
    """One video of one speaker, several clips long: the unit of work."""

    split: str
    person: str
    speaker_id: str
    speed: float
    clips: tuple[int, ...]  # numbers of this speaker's clips
    num_clips: int  # of this speaker in all

    @property
    def seed(self) -> int:
        """A seed of this session alone."""
        return _seed(self.person, self.speed, self.clips[0])


def plan_sessions(config: DemoConfig) -> list[Session]:
    """All sessions of the demo's VoxCeleb2; a dev speaker at another speed is another speaker."""
    dev = [(person, speed) for person in config.dev_speakers for speed in config.dev_speeds]
    test = [(person, 1.0) for person in config.test_speakers]
    sessions = []
    for split, speakers, first, num_clips in (
        ("dev", dev, 10001, config.clips_per_speaker),
        ("test", test, 20001, config.test_clips_per_speaker),
    ):
        for number, (person, speed) in enumerate(speakers):
            for start in range(0, num_clips, CLIPS_PER_SESSION):
                clips = tuple(range(start, min(start + CLIPS_PER_SESSION, num_clips)))
                speaker_id = f"id{first + number}"
                sessions.append(Session(split, person, speaker_id, speed, clips, num_clips))
    return sessions


def check_recordings(recordings: Path, config: DemoConfig) -> None:
    """Raise DavssError naming the first speaker or scene of the settings that has no recording."""
    if not recordings.is_dir():
        raise DavssError(f"{recordings}: no such directory; restore the embedded recordings (git)")
    for key in ("dev_speakers", "test_speakers"):
        known = sorted(path.name for path in (recordings / "speech").glob("*") if path.is_dir())
        _require_names(f"demo.{key}", getattr(config, key), known)
    for key in ("wham_scenes", "dns_scenes"):
        known = sorted(path.stem for path in (recordings / "noise").glob("*.ogg"))
        _require_names(f"demo.{key}", getattr(config, key), known)
    both = set(config.dev_speakers) & set(config.test_speakers)
    if both:
        raise DavssError(f"demo.test_speakers: {min(both)} is a dev speaker too; keep them apart")


def write_voxceleb2(recordings: Path, root: Path, config: DemoConfig, num_workers: int = 1) -> None:
    """Write `root/{dev,test}/mp4/idXXXXX/<video>/000NN.mp4` from speech/ of the recordings."""
    work = partial(write_session, recordings=recordings, root=root)
    deque(in_processes(work, plan_sessions(config), num_workers, "demo corpus", "session"), 0)


def write_session(session: Session, recordings: Path, root: Path) -> None:
    """Render one session as `root/{split}/mp4/{id}/{video}/000NN.mp4`."""
    cv2.setNumThreads(1)
    folder = recordings / "speech" / session.person
    audios = _clips_of_speaker(folder, session.speed, session.num_clips)
    # The face belongs to the speaker, clothes and room to the session, pose and blinks to the clip.
    feminine = not session.person.endswith("_m")
    identity = draw_identity(np.random.default_rng(_seed(session.speaker_id)), feminine)
    portrait = Portrait(identity, np.random.default_rng(session.seed))
    video_id = _video_id(session)
    for number, clip in enumerate(session.clips, start=1):
        rng = np.random.default_rng([session.seed, clip])
        frames = portrait.render(motion_of_speech(audios[clip], rng), rng)
        path = root / session.split / "mp4" / session.speaker_id / video_id / f"{number:05d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, frames, audios[clip])


def write_mp4(path: Path, frames: np.ndarray, audio: np.ndarray) -> None:
    """Write RGB frames (V, H, W, 3) at 25 fps and audio (T,) at 16 kHz as H.264 and AAC."""
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream(
            "libx264", rate=25, options={"preset": "ultrafast", "crf": "23"}
        )
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes on every machine
        sound = container.add_stream("aac", rate=RATE, layout="mono", options={"aac_coder": "fast"})
        sound.bit_rate = 64_000
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(audio[None].astype(np.float32), "fltp", "mono")
        block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(sound.encode(block))
        container.mux(sound.encode(None))


def write_wham(recordings: Path, root: Path, config: DemoConfig) -> None:
    """Write `root/{tr,cv,tt}/{scene}_NNN.wav`: 16 kHz stereo 16-bit, splits apart in time."""
    for scene in config.wham_scenes:
        audio = _read_scene(recordings / "noise" / f"{scene}.ogg")
        # A second microphone a hand's breadth away: the same scene, a little later and duller.
        other = 0.8 * np.roll(audio, 4) + 0.2 * np.roll(audio, 9)
        stereo = np.stack([audio, other], axis=1)
        for split, (begin, end) in WHAM_SPLITS.items():
            part = stereo[round(begin * len(stereo)) : round(end * len(stereo))]
            _write_pieces(root / split, scene, part, RATE, WHAM_SECONDS)


def write_dns(recordings: Path, root: Path, config: DemoConfig) -> None:
    """Write `root/{scene}_NNN.wav`: 48 kHz mono 16-bit, flat."""
    for scene in config.dns_scenes:
        audio = resample(_read_scene(recordings / "noise" / f"{scene}.ogg"), RATE, DNS_RATE)
        _write_pieces(root, scene, audio, DNS_RATE, DNS_SECONDS)


def _read_scene(path: Path) -> np.ndarray:
    audio, _ = read_audio(path, RATE)
    require_sound(audio, path)
    gain = NOISE_LEVEL / float(np.sqrt(np.mean(np.square(audio))))
    return audio * min(gain, 0.95 / float(np.abs(audio).max()))


def _write_pieces(folder: Path, stem: str, audio: np.ndarray, rate: int, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    num = max(1, round(len(audio) / rate / seconds))
    for number, piece in enumerate(np.array_split(audio, num)):
        soundfile.write(folder / f"{stem}_{number:03d}.wav", piece, rate, subtype="PCM_16")


@lru_cache(maxsize=4)
def _clips_of_speaker(folder: Path, speed: float, num_clips: int) -> list[np.ndarray]:
    seed = _seed(folder.name, speed)
    return cut_clips(speech_stream(folder, speed, seed), num_clips, seed)


def _require_names(key: str, names: tuple[str, ...], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise DavssError(
                f"{key}: no embedded recordings of '{name}'; choose from"
                f" {', '.join(known) or 'none'}"
            )


def _video_id(session: Session) -> str:
    name = f"{session.speaker_id}/{session.clips[0]}".encode()
    return base64.urlsafe_b64encode(hashlib.sha256(name).digest())[:11].decode()


def _seed(*parts: object) -> int:
    return number_of("/".join(str(part) for part in parts))
