"""One raw clip → one sample: alignment, levels, and why a clip is turned away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError
from davss.media.mouth import FaceQuality
from davss.shards import sample
from davss.shards.contract import decode
from davss.shards.sample import Mouths, finish_sample, read_recording
from tests.media import making

CONFIG = ShardsConfig(sample_rate=8000, min_seconds=1.0)
TONE = 0.3 * np.sin(2 * np.pi * 440 * np.arange(64_000) / 16_000)


def make_sample(clip, config, encoder):
    recording = read_recording(clip, config, with_mouth=encoder is not None)
    lips = encoder(recording.mouth) if encoder is not None and recording.mouth is not None else None
    return finish_sample(recording, lips, config)


class Encoder:
    """Number of the frame as its only feature."""

    dim = 1

    def __call__(self, mouth):
        return np.arange(len(mouth), dtype=np.float32)[:, None]


def clip_of(folder: Path, audio, rate: int = 16_000, video: bool = False) -> RawClip:
    path = folder / "a.wav"
    soundfile.write(path, audio, rate, subtype="FLOAT")
    return RawClip(
        "train-a", "train", "id1", "dev/a.wav", path, folder / "a.mp4" if video else None
    )


@pytest.mark.parametrize("speaker", ["id1", ""])
def test_speech_of_any_channel_and_noise_of_the_first(tmp_path, speaker):
    stereo = np.stack([np.zeros_like(TONE), TONE + 0.2], axis=1)
    raw = clip_of(tmp_path, stereo if speaker else stereo[:, ::-1])
    clip = decode(make_sample(replace(raw, speaker=speaker), CONFIG, None))
    assert (clip.sample_rate, len(clip.audio), clip.lips) == (8000, 32_000, None)
    assert abs(clip.audio.mean()) < 1e-4
    assert abs(clip.audio.std() - 0.3 / np.sqrt(2)) < 1e-3
    assert abs(clip.meta["rms"] - clip.audio.std()) < 1e-4


@pytest.mark.parametrize(("speaker", "power"), [("id1", 0.3**2), ("", 0.3**2 + 0.5**2)])
def test_only_voices_lose_their_rumble(tmp_path, speaker, power):
    rumble = np.sin(2 * np.pi * 30 * np.arange(64_000) / 16_000)
    raw = replace(clip_of(tmp_path, TONE + 0.5 * rumble), speaker=speaker)
    config = replace(CONFIG, high_pass_hz=80.0)
    audio = decode(make_sample(raw, config, None)).audio[4000:28_000]
    assert audio.var() == pytest.approx(power / 2, rel=0.05)


def test_loud_audio_is_scaled_not_clipped(tmp_path):
    clip = decode(make_sample(clip_of(tmp_path, 10 * TONE), CONFIG, None))
    spectrum = np.abs(np.fft.rfft(clip.audio)) ** 2
    assert np.abs(clip.audio).max() > 0.99
    assert spectrum[1760 - 20 : 1760 + 20].sum() / spectrum.sum() > 0.999


@pytest.mark.parametrize(
    ("frames", "samples", "kept"),
    [(50, 32_000, 50), (50, 34_000, 50), (50, 31_500, 49), (49, 32_000, 49)],
)
def test_audio_is_cut_to_the_video(tmp_path, monkeypatch, frames, samples, kept):
    monkeypatch.setattr(
        sample, "read_mouth", lambda *_: Mouths(np.zeros((frames, 96, 96), np.uint8))
    )
    source = clip_of(tmp_path, TONE[:samples], video=True)
    clip = decode(make_sample(source, CONFIG, Encoder()))
    assert (len(clip.lips), len(clip.audio)) == (kept, kept * 320)


@pytest.mark.parametrize("frames", [60, 40])
def test_lips_of_another_length_are_refused(tmp_path, monkeypatch, frames):
    monkeypatch.setattr(
        sample, "read_mouth", lambda *_: Mouths(np.zeros((frames, 96, 96), np.uint8))
    )
    source = clip_of(tmp_path, TONE[:32_000], video=True)
    with pytest.raises(DavssError, match=r"dev/a.wav: .* s of lips but 2.00 s of audio; cut both"):
        make_sample(source, CONFIG, Encoder())


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (TONE[:8000], "0.50 s, shorter than 1 s"),
        (np.zeros(32_000), "silent"),
        (np.full(32_000, 0.5), "silent"),
        (np.where(np.arange(32_000) == 9, np.nan, TONE[:32_000]), "NaN"),
        (np.zeros(0), "no audio samples"),
    ],
)
def test_unusable_audio(tmp_path, audio, message):
    with pytest.raises(DavssError, match=message):
        make_sample(clip_of(tmp_path, audio), CONFIG, None)


@pytest.fixture
def numbered(monkeypatch):
    """A mouth finder whose crops are the gray levels that tell the frames' numbers."""
    seen = []

    def find(frames, name):
        seen.append(frames)
        return SimpleNamespace(crops=np.array(making.numbers(list(frames))), quality=QUALITY)

    monkeypatch.setattr(sample, "_mouth_finder", lambda *_: find)
    return seen


QUALITY = FaceQuality(1, 1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(("shown", "heard"), [(0.4, 0.0), (0.0, 0.4), (0.0, 0.0)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_and_picture_of_one_file_by_its_clock(tmp_path, numbered, name, shown, heard):
    times, sound = shown + np.arange(50) / 25, making.noise(2.4)
    path = making.write(tmp_path / name, making.grays(50), sound, times=times, sound_start=heard)
    recording = read_recording(RawClip("k", "train", "id1", name, path, path), CONFIG, True)
    # of what was heard from second `heard` on, the sample begins with the first picture after it
    begin = max(shown, heard)
    assert abs(recording.mouth[0] - (begin - shown) * 25) <= 1 + 0.064 * 25
    assert (np.diff(recording.mouth) == 1).all() and recording.mouth[-1] >= 48
    members = finish_sample(recording, np.zeros((len(recording.mouth), 1)), CONFIG)
    clip = decode(members)
    assert len(clip.audio) == 320 * len(clip.lips) and len(clip.lips) >= 38


def test_another_rate_is_taken_only_where_wanted(tmp_path, numbered):
    times = np.arange(50) / 30
    path = making.write(tmp_path / "a.mp4", making.grays(50), making.noise(2.0), times=times)
    clip = RawClip("k", "train", "id1", "a.mp4", path, path)
    with pytest.raises(DavssError, match="a.mp4: 30 frames per second, 25 are needed; set shards"):
        read_recording(clip, CONFIG, True)
    recording = read_recording(clip, replace(CONFIG, resample_video=True), True)
    assert recording.facts == {"source_fps": 30.0} and len(recording.mouth) == 41


def test_a_video_cut_short_is_a_reject(tmp_path, numbered):
    path = making.write(tmp_path / "a.mp4", making.grays(50), movflags="faststart")
    path.write_bytes(path.read_bytes()[:-500])
    clip = clip_of(tmp_path, TONE[:32_000], video=True)
    with pytest.raises(DavssError, match="a.mp4: cut short: its header promises 2.000 s of pict"):
        read_recording(clip, CONFIG, True)
