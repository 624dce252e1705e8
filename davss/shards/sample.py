"""One raw clip → one sample of a shard, or the reason why not.

Sound and picture are read, the mouths become features, and both are cut to the same whole frames.
T samples, V video frames, D feature size.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.corpora.filters import measure_speech, require_speech
from davss.errors import DavssError
from davss.media import FPS
from davss.media.audio import high_pass, read_sound, require_sound, resample
from davss.media.decoding import require_file, sound_start
from davss.media.mouth import MouthFinder
from davss.media.rois import ROI, read_rois
from davss.media.video import NEAR_FPS, Frames
from davss.shards.contract import encode, samples_per_frame

# AAC pads its last frame and encoders add a lead-in: sound may outlast the picture by this much.
SURPLUS_SECONDS = 0.25


@dataclass(frozen=True)
class Mouths:
    """Crops uint8 (V, 96, 96), what the face finder says of them, the file's own frame rate, and
    the 1/25 s of the sound at which the first of them is seen.
    """

    crops: np.ndarray
    quality: dict[str, float] = field(default_factory=dict)
    fps: float = FPS
    first: int = 0


@dataclass(frozen=True)
class Recording:
    """What was read of a clip: audio (T,) at the shards' rate, mouth crops (V, 96, 96) or None.

    `facts` go into the clip's meta, `quality` into its row of the manifest.
    """

    clip: RawClip
    audio: np.ndarray
    mouth: np.ndarray | None
    facts: dict[str, float] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)


@functools.cache
def _mouth_finder(min_found: float, max_gap: int) -> MouthFinder:
    cv2.setNumThreads(1)  # tasks run side by side, one per core
    return MouthFinder(min_found, max_gap=max_gap)  # loading takes longer than one clip


def read_mouth(
    clip: RawClip, config: ShardsConfig, start: float = 0.0, num: int | None = None
) -> Mouths:
    """Mouths of a clip's video, or of its ready crops.

    Sound that lies in the same file begins at `start` s of its clock and lasts `num` frames.
    """
    if clip.video is None:
        raise DavssError(f"{clip.source}: has no video")
    if Path(clip.video).suffix == ROI:
        return Mouths(read_rois(clip.video))
    if _one_file(clip):
        frames = Frames(clip.video, start, num)
    else:
        frames = Frames(clip.video, sound_start(require_file(clip.video)))
    if frames.missing:
        raise DavssError(frames.missing)
    if abs(frames.fps - FPS) > NEAR_FPS and not config.resample_video:
        raise DavssError(
            f"{clip.source}: {frames.fps:.5g} frames per second, 25 are needed; set "
            "shards.resample_video to take it"
        )
    finder = _mouth_finder(config.min_face, round(config.max_face_gap * FPS))
    found = finder(frames, clip.source)
    return Mouths(found.crops, dataclasses.asdict(found.quality), frames.fps, frames.first)


def read_recording(clip: RawClip, config: ShardsConfig, with_mouth: bool) -> Recording:
    """Sound, without offset, and mouths of a clip.

    DavssError says why a clip is unusable: short, silent, noisy, corrupt, no face.
    """
    sound = read_sound(clip.audio)
    if sound.missing:
        raise DavssError(sound.missing)
    audio, _ = sound.mono(None if clip.speaker else 0)  # WHAM!'s noise is its first channel
    audio = audio - audio.mean()  # an offset is no sound, yet would count in every level
    require_sound(audio, clip.source)
    audio = resample(audio, sound.rate, config.sample_rate)
    _check_seconds(clip, len(audio), config)  # before the costly video
    quality: dict[str, float] = {}
    if clip.speaker:
        audio = high_pass(audio, config.high_pass_hz, config.sample_rate)
        speech = measure_speech(audio, config.sample_rate)
        require_speech(speech, config.min_active, config.min_snr_db, clip.source)
        quality = dataclasses.asdict(speech)
    if not with_mouth or clip.video is None:
        return Recording(clip, audio, None, quality=quality)
    per_frame = samples_per_frame(config.sample_rate)
    mouths = read_mouth(clip, config, sound.start, len(audio) // per_frame)
    audio = audio[mouths.first * per_frame :]
    facts = {} if abs(mouths.fps - FPS) <= NEAR_FPS else {"source_fps": round(mouths.fps, 3)}
    return Recording(clip, audio, mouths.crops, facts, quality | mouths.quality)


def finish_sample(
    recording: Recording, lips: np.ndarray | None, config: ShardsConfig
) -> dict[str, Any]:
    """A recording and the features (V, D) of its mouths as encoded members.

    DavssError when lips and audio differ in length, or what is left of both is short.
    """
    clip, audio = recording.clip, recording.audio
    if lips is not None:
        audio, lips = _align(clip, audio, lips, config.sample_rate)
        _check_seconds(clip, len(audio), config)
    peak = float(np.abs(audio).max())
    if peak > 1:  # resampling overshoots; levels carry no meaning here, clipping would
        audio = audio / np.float32(peak)
    meta: dict[str, Any] = {"split": clip.split, "speaker": clip.speaker, "source": clip.source}
    meta |= recording.facts | {"sample_rate": config.sample_rate}
    return encode(clip.key, audio, lips, meta)


def _one_file(clip: RawClip) -> bool:
    """Whether sound and picture have one clock, which says what belongs together."""
    return clip.audio == clip.video


def _check_seconds(clip: RawClip, num_samples: int, config: ShardsConfig) -> None:
    seconds = num_samples / config.sample_rate
    if seconds < config.min_seconds:
        raise DavssError(f"{clip.source}: {seconds:.2f} s, shorter than {config.min_seconds:g} s")


def _align(
    clip: RawClip, audio: np.ndarray, lips: np.ndarray, sample_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut audio (T,) and lips (V, D) to the same whole video frames: T = V·rate/25."""
    per_frame = samples_per_frame(sample_rate)
    difference = len(audio) / per_frame - len(lips)
    if not _one_file(clip) and not -1 <= difference <= SURPLUS_SECONDS * FPS:
        raise DavssError(
            f"{clip.source}: {len(lips) / FPS:.2f} s of lips but {len(audio) / sample_rate:.2f} "
            "s of audio; cut both to the same length"
        )
    num_frames = min(len(lips), len(audio) // per_frame)
    return audio[: num_frames * per_frame], lips[:num_frames]
