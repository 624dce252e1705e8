"""The demo corpora: official layouts, repeatable clips, mouths that follow the speech."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from davss.config import DemoConfig
from davss.corpora.demo import WHAM_SPLITS, check_recordings, plan_sessions, write_session
from davss.corpora.demo_speech import RATE, cut_clips, motion_of_speech, without_long_silences
from davss.errors import DavssError
from davss.media.audio import read_audio
from davss.media.mouth import MouthFinder, opening
from davss.media.video import Frames
from pipelines.demo_corpus import RECORDINGS, main
from tests.media.making import pictures

TINY = {
    "dev_speakers": ["en_allison_f"],
    "test_speakers": ["it_carlo_m"],
    "dev_speeds": [1.0],
    "clips_per_speaker": 1,
    "test_clips_per_speaker": 1,
    "wham_scenes": ["city"],
    "dns_scenes": ["train"],
}


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump({"demo": TINY}))
    return path


@pytest.fixture(scope="module")
def demo(params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    main(["--params", str(params), "--out", str(out), "--workers", "1"])
    return out


def config(**changes: object) -> DemoConfig:
    return DemoConfig(**{**{k: _tuple(v) for k, v in TINY.items()}, **changes})


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def clip(demo: Path, split: str) -> Path:
    (path,) = (demo / "voxceleb2" / split / "mp4").glob("id?????/???????????/00001.mp4")
    return path


@pytest.mark.parametrize("split", ["dev", "test"])
def test_voxceleb2_clips(demo: Path, split: str) -> None:
    video, (audio, rate) = Frames(clip(demo, split)), read_audio(clip(demo, split))
    assert next(iter(video)).shape == (224, 224, 3) and video.fps == pytest.approx(25)
    assert rate == 16_000 and 75 <= len(video) <= 150
    assert 0 <= len(audio) - 640 * len(video) < 2048
    assert 0.02 < np.sqrt(np.mean(audio**2)) < 0.2


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_mouth_found_in_the_video_follows_the_sound(demo: Path, split: str) -> None:
    frames, (audio, _) = pictures(clip(demo, split)), read_audio(clip(demo, split))
    mouth = MouthFinder()(frames)
    assert mouth.found.mean() >= 0.98
    energy = np.square(audio[: 640 * len(frames)].reshape(-1, 640)).mean(1)
    level = 10 * np.log10(energy + 1e-6)
    right = np.corrcoef(level, opening(mouth.landmarks))[0, 1]
    late = np.corrcoef(level[:-5], opening(mouth.landmarks)[5:])[0, 1]
    assert right > 0.7 and right > late + 0.2


def test_noise_corpora(demo: Path) -> None:
    lengths = {}
    for split in WHAM_SPLITS:
        infos = [soundfile.info(path) for path in (demo / "wham/wham_noise" / split).glob("*.wav")]
        assert {(i.samplerate, i.channels, i.subtype) for i in infos} == {(16_000, 2, "PCM_16")}
        lengths[split] = sum(info.frames for info in infos)
    total = sum(lengths.values())
    assert [round(lengths[split] / total, 2) for split in WHAM_SPLITS] == [0.7, 0.1, 0.2]
    flat = demo / "dns/datasets_fullband/noise_fullband"
    info = soundfile.info(flat / "train_000.wav")
    assert (info.samplerate, info.channels, info.subtype) == (48_000, 1, "PCM_16")


def test_a_session_is_repeatable_and_needs_no_other(demo: Path, tmp_path: Path) -> None:
    session = plan_sessions(config())[1]
    write_session(session, RECORDINGS, tmp_path)
    (again,) = tmp_path.glob("test/mp4/*/*/00001.mp4")
    assert _sha(again) == _sha(clip(demo, "test"))


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_speed_is_a_speaker_and_sessions_have_their_own_seed() -> None:
    settings = config(
        dev_speakers=("en_allison_f", "ru_f"), dev_speeds=(0.9, 1.0), clips_per_speaker=8
    )
    sessions = plan_sessions(settings)
    dev = [session for session in sessions if session.split == "dev"]
    assert {s.speaker_id for s in dev} == {"id10001", "id10002", "id10003", "id10004"}
    assert sum(len(session.clips) for session in dev) == 4 * 8
    assert len({session.seed for session in sessions}) == len(sessions)
    assert not {s.speaker_id for s in dev} & {s.speaker_id for s in sessions if s.split == "test"}


def test_clips_last_3_to_6_seconds_and_start_again_when_speech_is_used_up() -> None:
    stream = np.random.default_rng(0).standard_normal(15 * RATE).astype(np.float32)
    clips = cut_clips(stream, 7, seed=1)
    assert len(clips) == 7
    assert all(len(c) % 640 == 0 and 3 <= len(c) / RATE <= 6 for c in clips)
    with pytest.raises(DavssError, match="only 5.0 s of recordings"):
        cut_clips(stream[: 5 * RATE], 7, seed=1)


def test_long_silences_are_cut() -> None:
    voice = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    audio = np.concatenate([voice, np.zeros(3 * RATE, np.float32), voice])
    assert 2.1 * RATE < len(without_long_silences(audio)) < 2.6 * RATE


def test_motion_opens_with_energy_and_spreads_with_treble() -> None:
    time = np.arange(4 * RATE) / RATE
    rng = np.random.default_rng(0)
    hum = np.sin(2 * np.pi * 200 * time)
    hiss = np.sin(2 * np.pi * 3000 * time)
    audio = np.where(time < 1, 1e-4, np.where(time < 2.5, 0.3, 0.3)) * np.where(
        time < 2.5, hum, hiss
    )
    motion = motion_of_speech(audio.astype(np.float32), rng)
    assert len(motion.opening) == 100 and motion.pose.shape == (100, 4)
    assert motion.opening[:24].max() < 0.1 and motion.opening[27:98].min() > 0.7
    assert motion.spread[30:60].max() < 0.4 < 0.7 < motion.spread[65:98].min()


def test_unknown_names_and_missing_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DavssError, match=r"demo.dev_speakers: no embedded .* 'nobody'; choose"):
        check_recordings(RECORDINGS, config(dev_speakers=("nobody",)))
    with pytest.raises(DavssError, match=r"demo.dns_scenes: no embedded .* 'moon'; choose"):
        check_recordings(RECORDINGS, config(dns_scenes=("moon",)))
    with pytest.raises(DavssError, match="it_carlo_m is a dev speaker too"):
        check_recordings(RECORDINGS, config(dev_speakers=("it_carlo_m",)))
    with pytest.raises(DavssError, match="gone: no such directory"):
        check_recordings(tmp_path / "gone", config())


def test_a_failure_leaves_nothing_behind(params: Path, tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    for name in ("speech/en_allison_f", "speech/it_carlo_m", "noise"):
        (recordings / name).mkdir(parents=True)
    for scene in ("city", "train"):
        source = RECORDINGS / "noise" / f"{scene}.ogg"
        (recordings / "noise" / source.name).write_bytes(source.read_bytes())
    arguments = ["--params", str(params), "--out", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(DavssError, match="en_allison_f: no recordings"):
        main([*arguments, "--recordings", str(recordings)])
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_the_embedded_recordings_are_small_and_attributed() -> None:
    files = sorted(RECORDINGS.rglob("*.ogg"))
    assert files and sum(path.stat().st_size for path in files) <= 8e6
    attribution = (RECORDINGS / "ATTRIBUTION.md").read_text()
    for path in files:
        name = path.name if path.parent.name == "noise" else path.parent.name
        assert f"`{name}`" in attribution, path
