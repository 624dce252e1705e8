"""Lip features that predict the sound: on mouths that move with a made-up voice."""

import numpy as np
import pytest

from davss.errors import DavssError
from davss.networks import lipsound
from davss.networks.eigenlips import Eigenlips
from davss.networks.lipsound import LipSound, log_mel
from davss.networks.visual import load_visual_encoder, save_visual_encoder

RATE, FRAMES = 8000, 75


def clip(seed):
    """Crops whose opening is the level of a noise, a frame later than in the sound."""
    rng = np.random.default_rng(seed)
    opening = np.convolve(rng.uniform(0, 1, FRAMES + 4), np.ones(5) / 5, mode="valid")
    rows = np.abs(np.arange(96) - 48)[None, :, None]
    crops = 120 - 90 * (rows < 30 * np.roll(opening, 1)[:, None, None]) + rng.integers(0, 9, 96)
    level = np.repeat(10 ** (2 * opening - 1), RATE // 25)
    audio = (level * rng.standard_normal(len(level))).astype(np.float32) * 0.02
    return np.broadcast_to(crops, (FRAMES, 96, 96)).astype(np.uint8), audio


@pytest.fixture(scope="module")
def encoder():
    clips = [clip(seed) for seed in range(12)]
    eigenlips = Eigenlips.fit((mouth for mouth, _ in clips), 4)
    return LipSound.fit(eigenlips, clips, RATE)


def test_the_sound_of_another_clip_is_predicted(encoder):
    mouth, audio = clip(100)
    predicted = encoder(mouth)[:, encoder.eigenlips.dim :]
    truth = log_mel(audio, RATE)
    right = np.corrcoef(predicted.mean(axis=1), truth.mean(axis=1))[0, 1]
    wrong = np.corrcoef(predicted.mean(axis=1), log_mel(clip(101)[1], RATE).mean(axis=1))[0, 1]
    assert right > 0.9 > 0.6 > abs(wrong)


def test_a_louder_recording_sounds_the_same():
    audio = clip(0)[1]
    np.testing.assert_allclose(log_mel(audio, RATE), log_mel(100 * audio, RATE), atol=1e-3)
    assert log_mel(audio, RATE).shape == (FRAMES, lipsound.BANDS)


def test_what_was_saved_is_loaded(encoder, tmp_path):
    save_visual_encoder(encoder, tmp_path)
    loaded = load_visual_encoder(tmp_path)
    mouth = clip(3)[0]
    assert loaded.dim == encoder.dim == encoder.eigenlips.dim + lipsound.BANDS
    np.testing.assert_array_equal(loaded(mouth), encoder(mouth))
    (tmp_path / "lipsound.safetensors").write_bytes(b"no")
    with pytest.raises(DavssError, match="not a lipsound file"):
        load_visual_encoder(tmp_path)
