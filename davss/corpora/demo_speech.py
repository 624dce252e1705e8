"""Spoken clips for the demo corpus: prompts cut to 3–6 s, and mouth motion that follows them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from davss.corpora.demo_face import Motion
from davss.errors import DavssError
from davss.media.audio import read_audio, require_sound, resample

RATE = 16_000  # Hz
SAMPLES_PER_FRAME = RATE // 25
MIN_SECONDS, MAX_SECONDS = 3.0, 5.6
LEVEL = 10 ** (-24 / 20)  # RMS of a clip, full scale 1
WINDOW = RATE // 100  # 10 ms: the grain of the speech detector
KEEP = 12  # windows of silence kept on either side of speech: natural short pauses
EDGE = RATE // 200  # samples of cross-fade at a joint


def read_prompts(folder: Path) -> list[np.ndarray]:
    """All recordings of a speaker by name, float32 (T,) at 16 kHz, without long silences."""
    files = sorted(folder.glob("*.ogg"))
    if not files:
        raise DavssError(
            f"{folder}: no recordings (*.ogg) of this speaker; restore it from the repo"
        )
    prompts = []
    for file in files:
        audio, _ = read_audio(file, RATE)
        require_sound(audio, file)
        prompts.append(without_long_silences(audio))
    return prompts


def without_long_silences(audio: np.ndarray) -> np.ndarray:
    """Cut silences in (T,) at 16 kHz down to a quarter of a second, with short cross-fades."""
    num = len(audio) // WINDOW
    if num == 0:
        return audio
    power = np.square(audio[: num * WINDOW].reshape(num, WINDOW)).mean(1)
    level = 10 * np.log10(power + 1e-12)
    speech = level > np.percentile(level, 95) - 32
    near = np.convolve(speech, np.ones(2 * KEEP + 1), "same") > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], near, [False]])))
    pieces = [audio[a * WINDOW : b * WINDOW] for a, b in edges.reshape(-1, 2)]
    return join(pieces) if pieces else audio


def join(pieces: list[np.ndarray]) -> np.ndarray:
    """Concatenate pieces (T_i,), cross-fading neighbours over 5 ms so that no joint clicks."""
    ramp = np.linspace(0, 1, EDGE, dtype=np.float32)
    joined: list[np.ndarray] = [np.asarray(pieces[0], np.float32)]
    for piece in pieces[1:]:
        if min(len(joined[-1]), len(piece)) < 2 * EDGE:
            joined.append(piece)
            continue
        overlap = joined[-1][-EDGE:] * (1 - ramp) + piece[:EDGE] * ramp
        joined[-1] = joined[-1][:-EDGE]
        joined += [overlap, piece[EDGE:]]
        joined[-2:] = [np.concatenate(joined[-2:])]
    return np.concatenate(joined)


@lru_cache(maxsize=4)
def speech_stream(folder: Path, speed: float, seed: int) -> np.ndarray:
    """A speaker's prompts in random order, played `speed` times faster: (T,) at 16 kHz.

    Resampling moves pitch and formants together: another voice, as in Kaldi's speed perturbation.
    """
    prompts = read_prompts(folder)
    order = np.random.default_rng(seed).permutation(len(prompts))
    stream = join([prompts[index] for index in order])
    return resample(stream, round(RATE * speed / 80) * 80, RATE)


def cut_clips(stream: np.ndarray, num_clips: int, seed: int) -> list[np.ndarray]:
    """Cut (T,) into `num_clips` clips of 3–6 s and whole video frames, ending in a quiet place.

    When the stream is used up it starts again from another place.
    """
    if len(stream) < 2 * MAX_SECONDS * RATE:
        raise DavssError(
            f"demo speech: only {len(stream) / RATE:.1f} s of recordings of one speaker; at least"
            f" {2 * MAX_SECONDS:.0f} s are needed"
        )
    rng = np.random.default_rng(seed)
    blocks = stream[: len(stream) // WINDOW * WINDOW].reshape(-1, WINDOW)
    power = np.convolve(np.square(blocks).mean(1), np.ones(5), "same")
    clips: list[np.ndarray] = []
    start = 0
    while len(clips) < num_clips:
        target = rng.uniform(MIN_SECONDS + 0.2, MAX_SECONDS - 0.3)
        low = start // WINDOW + int(100 * (target - 0.2))
        high = low + 60
        if (high + 8) * WINDOW > len(stream):
            start = int(rng.integers(0, RATE))
            continue
        end = (low + int(np.argmin(power[low:high]))) * WINDOW
        frames = max(round((end - start) / SAMPLES_PER_FRAME), int(MIN_SECONDS * 25))
        clips.append(_finish(stream[start : start + frames * SAMPLES_PER_FRAME], rng))
        start += frames * SAMPLES_PER_FRAME
    return clips


def _finish(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    audio = audio.astype(np.float32, copy=True)
    ramp = np.linspace(0, 1, EDGE, dtype=np.float32)
    audio[:EDGE] *= ramp
    audio[-EDGE:] *= ramp[::-1]
    gain = LEVEL * 10 ** (rng.uniform(-3, 3) / 20) / np.sqrt(np.mean(np.square(audio)) + 1e-12)
    return audio * min(gain, 0.95 / float(np.abs(audio).max() + 1e-12))


def motion_of_speech(audio: np.ndarray, rng: np.random.Generator) -> Motion:
    """Mouth and head of someone saying (T,) at 16 kHz, one row per video frame of 640 samples.

    Opening follows the energy of the frame (log, normalised per clip), spread the balance of high
    and low bands.
    """
    num = len(audio) // SAMPLES_PER_FRAME
    level, balance = _level_and_balance(audio, num)
    opening = np.clip((level - (np.percentile(level, 97) - 34)) / 34, 0, 1) ** 1.3
    opening = np.convolve(np.pad(opening, 1, "edge"), (0.2, 0.6, 0.2), "valid")
    spread = 1 / (1 + np.exp(-(balance + 9) / 5))  # −9 dB is about the balance of an average vowel
    loud = np.clip(opening / 0.15, 0, 1)  # at rest the lips keep their rest shape
    spread = loud * spread + (1 - loud) * 0.5
    spread = np.convolve(np.pad(spread, 1, "edge"), (0.25, 0.5, 0.25), "valid")
    return Motion(opening, spread, _blinks(num, rng), _poses(num, rng))


def _level_and_balance(audio: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    size = 1024  # samples around the middle of each frame
    padded = np.pad(audio, (size, size))
    centres = size + SAMPLES_PER_FRAME // 2 + SAMPLES_PER_FRAME * np.arange(num)
    rows = padded[centres[:, None] + np.arange(-size // 2, size // 2)] * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(rows, axis=1)))
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    voice = power[:, (hertz > 80) & (hertz < 4000)].sum(1)
    low = power[:, (hertz > 100) & (hertz < 1000)].sum(1)
    high = power[:, (hertz >= 1000) & (hertz < 6000)].sum(1)
    return 10 * np.log10(voice + 1e-7), 10 * np.log10((high + 1e-7) / (low + 1e-7))


def _blinks(num: int, rng: np.random.Generator) -> np.ndarray:
    blink = np.zeros(num + 8)
    time = int(rng.integers(5, 60))
    while time < num:
        blink[time : time + 5] = (0.5, 1.0, 1.0, 0.6, 0.2)
        time += int(rng.integers(45, 130))
    return blink[:num]


def _poses(num: int, rng: np.random.Generator) -> np.ndarray:
    # Sums of slow sines: sway in angle (radians), right and down (pixels of the video), and size.
    seconds = np.arange(num) / 25
    poses = np.empty((num, 4))
    for column, (rest, sway) in enumerate([(0.05, 0.03), (5.0, 2.5), (4.0, 2.0), (0.03, 0.012)]):
        hertz, phase = rng.uniform(0.1, 0.7, 3), rng.uniform(0, 2 * np.pi, 3)
        waves = np.sin(2 * np.pi * hertz * seconds[:, None] + phase).mean(1)
        poses[:, column] = rng.uniform(-rest, rest) + sway * waves
    poses[:, 3] += 1.10
    return poses
