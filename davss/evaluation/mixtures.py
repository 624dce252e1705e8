"""Evaluation mixtures: a plan that says which clips, where and how loud, and its rendering.

A mixture has K distinct test speakers and one noise (docs/method.md §10). Speaker 1 is sir_db above
each of the others, so at 0 dB all are equally loud; the noise is snr_db below the sum of all
speech; the mixture is at −25 dBFS. Speech is drawn from (seed, K, index) alone: the conditions
compare the same talkers under different noises.

A row's `pool` says of each speaker whether the lips are known ("lips") or not ("off-screen");
`speaker_seen` and `scene_seen` whether the recordings that priors are trained on have the same
voice and scene, None where that is not known; `damage`, in some plans, what is done to the mixture
or to the faces before anything is separated (`davss.evaluation.damage`).

K speakers, L of them in view, T samples, V video frames, D visual feature size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas

from davss.config import MixturesConfig
from davss.errors import DavssError
from davss.evaluation import damage
from davss.evaluation.lists import keys_of
from davss.shards.contract import Clip, frames_of, samples_per_frame
from davss.shards.reader import ShardReader

LEVEL_DB = -25.0
ACTIVE = 0.5  # a segment's RMS over its clip's: leaves out pauses
IN_VIEW, OFF_SCREEN = "lips", "off-screen"


class Clips(Protocol):
    """Clips by key: a ShardReader, or several."""

    def __getitem__(self, key: str, /) -> Clip: ...


# Lips (V, D) of all of a clip, `frames` of which are damaged: (clip, damage, first, frames, rng).
Pictures = Callable[[Clip, str, int, int, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Mixture:
    """mixture (T,) = sum of speech (K, T) + noise (T,), unless it is damaged, all float32; lips
    (L, V, D) of the speakers in view, who come first, or None.
    """

    key: str
    mixture: np.ndarray
    speech: np.ndarray
    noise: np.ndarray
    lips: np.ndarray | None
    sample_rate: int


def plan_mixtures(
    speech: ShardReader, noise: ShardReader, config: MixturesConfig, condition: str, seed: int
) -> pandas.DataFrame:
    """One row per mixture of `condition`, `per_num_speakers` for every K; deterministic. With
    `config.list` one row per pair of that list, in its order.

    Columns: key, condition, num_speakers, pool, speech_keys, speech_offsets (video frames),
    speech_gains, speaker_seen, noise_key, noise_offset (samples), noise_gain, scene_seen, sir_db
    (NaN for K = 1), snr_db, seconds, sample_rate, seed. Raises DavssError when there are too few
    speakers or clips long enough, or the rates differ.
    """
    rate, num_samples = common_rate(speech, noise), round(config.seconds * speech.sample_rate)
    talkers = _long_enough(speech, num_samples, config.seconds)
    noises = sorted(_long_enough(noise, num_samples, config.seconds).key)
    given = None if config.list is None else keys_of(config.list, speech.clips, set(talkers.key))
    speakers = {name: sorted(rows.key) for name, rows in talkers.groupby("speaker")}
    if given is None and len(speakers) < max(config.num_speakers):
        raise DavssError(
            f"{speech.manifest}: {len(speakers)} speakers with clips of {config.seconds:g} s, "
            "too few for "
            f"mixtures of {max(config.num_speakers)}; lower mixtures.num_speakers or add test "
            "speakers"
        )
    voices, scenes = seen_in_training(speech), seen_in_training(noise)
    frames = speech.clips.set_index("key").num_frames
    rows = []
    for count in config.num_speakers if given is None else [2]:
        for index in range(config.per_num_speakers if given is None else len(given)):
            key = f"{condition}-k{count}-{index:04d}"
            row: dict[str, Any] = {"key": key, "condition": condition, "num_speakers": count}
            keys, name = None if given is None else given[index], (seed, count, index)
            row |= _plan_speech(speech, speakers, num_samples, count, config, name, keys)
            row |= _plan_noise(noise, noises, num_samples, config, (seed, key))
            row |= {"seconds": num_samples / rate, "sample_rate": rate, "seed": seed}
            in_view = all(frames[key] > 0 for key in row["speech_keys"])
            row["pool"] = [IN_VIEW if in_view else OFF_SCREEN] * count
            row["speaker_seen"] = [voices[key] for key in row["speech_keys"]]
            row["scene_seen"] = scenes[row["noise_key"]]
            rows.append(set_levels(row, speech, noise))
    return pandas.DataFrame(rows)


def seen_in_training(reader: ShardReader) -> dict[str, bool | None]:
    """Of every clip of a split, by key, whether the train split of its corpus has the same speaker
    or scene; None where either names none.
    """
    trained = reader.manifest.with_name("train.clips.parquet")
    known: set[str] = set()
    if trained.is_file():
        known = set(pandas.read_parquet(trained, columns=["speaker"]).speaker) - {""}
    clips = reader.clips
    return {
        key: speaker in known if known and speaker else None
        for key, speaker in zip(clips.key, clips.speaker, strict=True)
    }


def seeded(*parts: Any) -> np.random.Generator:
    """Random numbers that depend on `parts`, a mixture's name, alone: adding or dropping other
    mixtures changes none.
    """
    return np.random.default_rng(list(hashlib.sha256(repr(parts).encode()).digest()))


def common_rate(speech: ShardReader, noise: ShardReader) -> int:
    """The sample rate of both in Hz; DavssError if they differ."""
    if speech.sample_rate != noise.sample_rate:
        raise DavssError(
            f"{noise.manifest}: {noise.sample_rate} Hz, but {speech.manifest} has "
            f"{speech.sample_rate} "
            "Hz; build both with the same shards.sample_rate"
        )
    return speech.sample_rate


def _long_enough(reader: ShardReader, num_samples: int, seconds: float) -> pandas.DataFrame:
    clips = reader.clips[reader.clips.num_samples >= num_samples]
    if clips.empty:
        raise DavssError(
            f"{reader.manifest}: no clip lasts the {seconds:g} s of a mixture; lower "
            "mixtures.seconds"
        )
    return clips


def _plan_speech(
    speech: ShardReader,
    speakers: Mapping[str, list[str]],
    num_samples: int,
    count: int,
    config: MixturesConfig,
    name: tuple[int, int, int],
    keys: list[str] | None,
) -> dict[str, Any]:
    """Distinct speakers, a clip of each or those of `keys`, and a segment of each in which they
    speak.
    """
    rng = seeded("speech", *name)
    if keys is None:
        chosen = rng.choice(sorted(speakers), size=count, replace=False)
        keys = [str(rng.choice(speakers[speaker])) for speaker in chosen]
    offsets = [active_offset(speech[key], num_samples, rng) for key in keys]
    sir_db = float(rng.choice(config.sir_db)) if count > 1 else float("nan")
    return {"speech_keys": keys, "speech_offsets": offsets, "sir_db": sir_db}


def _plan_noise(
    noise: ShardReader, keys: list[str], num_samples: int, config: MixturesConfig, name: tuple
) -> dict[str, Any]:
    rng = seeded("noise", *name)
    key = str(rng.choice(keys))
    slack = int(noise.clips.set_index("key").num_samples[key]) - num_samples
    offset, snr_db = int(rng.integers(slack + 1)), float(rng.uniform(*config.snr_db))
    return {"noise_key": key, "noise_offset": offset, "snr_db": snr_db}


def active_offset(clip: Clip, num_samples: int, rng: np.random.Generator) -> int:
    """A video frame from which `num_samples` of a clip are not mostly a pause."""
    per_frame = samples_per_frame(clip.sample_rate)
    energy = np.concatenate([[0.0], np.cumsum(np.square(clip.audio, dtype=np.float64))])
    starts = np.arange(0, len(clip.audio) - num_samples + 1, per_frame)
    power = (energy[starts + num_samples] - energy[starts]) / num_samples
    active = np.flatnonzero(power >= ACTIVE**2 * energy[-1] / len(clip.audio))
    if len(active) == 0:
        active = np.array([power.argmax()])
    return int(rng.choice(active))


def set_levels(row: dict[str, Any], speech: Clips, noise: Clips) -> dict[str, Any]:
    """Add the gains that make the segments' levels meet sir_db, snr_db and LEVEL_DB."""
    segments, background, _ = _segments(row, speech, noise)
    sir_db = 0.0 if row["num_speakers"] == 1 else row["sir_db"]
    below = np.array([0.0] + [sir_db] * (row["num_speakers"] - 1))
    gains = 10 ** (-below / 20) / _rms(segments, row["key"])
    talk = gains @ segments
    noise_gain = (
        10 ** (-row["snr_db"] / 20) * _rms(talk, row["key"]) / _rms(background, row["noise_key"])
    )
    level = 10 ** (LEVEL_DB / 20) / _rms(talk + noise_gain * background, row["key"])
    row["speech_gains"] = [float(gain) for gain in gains * level]
    row["noise_gain"] = float(noise_gain * level)
    return row


def _rms(signal: np.ndarray, name: str) -> np.ndarray:
    level = np.sqrt(np.mean(np.square(signal, dtype=np.float64), axis=-1))
    if (level < 1e-7).any():
        raise DavssError(f"{name}: a segment is digital silence; leave that recording out")
    return level


def _segments(
    row: Mapping[str, Any], speech: Clips, noise: Clips, pictures: Pictures | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Unscaled segments of a row: speech (K, T), noise (T,), lips (L, V, D) or None."""
    num_samples = round(row["seconds"] * row["sample_rate"])
    num_frames = frames_of(num_samples, row["sample_rate"])
    signals, lips = [], []
    for key, first in zip(row["speech_keys"], row["speech_offsets"], strict=True):
        clip = speech[key]
        start = first * samples_per_frame(clip.sample_rate)
        signals.append(_cut(clip, start, num_samples, row))
        if row["pool"][len(signals) - 1] == IN_VIEW:
            lips.append(_seen(clip, first, num_frames, row, pictures))
    background = _cut(noise[row["noise_key"]], row["noise_offset"], num_samples, row)
    return np.stack(signals), background, np.stack(lips) if lips else None


def _seen(
    clip: Clip, first: int, count: int, row: Mapping[str, Any], pictures: Pictures | None
) -> np.ndarray:
    if clip.lips is None:
        raise DavssError(f"{clip.key}: has no lips; run the mixtures stage again")
    lips, text = clip.lips, row.get("damage", "")
    if damage.of_picture(text):
        if pictures is None:
            raise DavssError(f"{row['key']}: '{text}' needs the clips' videos; damage the sound")
        lips = pictures(clip, text, first, count, seeded("damage", row["key"], text, clip.key))
    return lips[first : first + count]


def _cut(clip: Clip, start: int, num_samples: int, row: Mapping[str, Any]) -> np.ndarray:
    segment = clip.audio[start : start + num_samples]
    if len(segment) != num_samples or clip.sample_rate != row["sample_rate"]:
        raise DavssError(
            f"{row['key']}: clip {clip.key} is not as planned; run the mixtures stage again"
        )
    return segment


def render(
    row: Mapping[str, Any], speech: Clips, noise: Clips, pictures: Pictures | None = None
) -> Mixture:
    """The signals of one row of the plan: speech (K, T) and noise (T,) as they are mixed, and the
    mixture as its `damage` leaves it; `pictures` damages lips.
    """
    segments, background, lips = _segments(row, speech, noise, pictures)
    gains = np.asarray(row["speech_gains"], np.float64)[:, None]
    sources = (segments * gains).astype(np.float32)
    background = (background * float(row["noise_gain"])).astype(np.float32)
    text, rate = row.get("damage", ""), int(row["sample_rate"])
    rng = seeded("damage", row["key"])  # the same room for every RT60
    mixture, sources = damage.damaged_sound(text, sources, background, rate, rng)
    return Mixture(row["key"], mixture, sources, background, lips, rate)


@dataclass(frozen=True)
class Library:
    """What mixtures are made of: corpora of `voices`, by condition where noise comes from, and what
    damages lips.
    """

    voices: tuple[ShardReader, ...]
    noises: Mapping[str, ShardReader]
    pictures: Pictures | None = None

    def __getitem__(self, key: str) -> Clip:
        """The clip of a voice; DavssError where no corpus has it."""
        for reader in self.voices:
            if key in reader:
                return reader[key]
        where = ", ".join(str(reader.manifest) for reader in self.voices)
        raise DavssError(f"{key}: not in {where}; rebuild mixtures and shards, together")

    def render(self, row: Mapping[str, Any]) -> Mixture:
        """The signals of a row."""
        return render(row, self, self.noises[row["condition"]], self.pictures)

    @property
    def shards(self) -> list[str]:
        """The names of all shards that clips come from: they name their content."""
        readers = (*self.voices, *self.noises.values())
        return sorted({shard for reader in readers for shard in reader.clips.shard})


def rows_of(manifest: pandas.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of a plan as plain values, which `render` takes."""
    for row in manifest.to_dict("records"):
        yield {
            str(name): value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in row.items()
        }
