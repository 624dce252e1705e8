"""Validation against a denoiser whose loss is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from davss.config import DiffusionConfig, PriorConfig, TrainingConfig
from davss.errors import DavssError
from davss.shards.contract import Clip
from davss.training.validation import SIGMAS, ValidationClips, examples, load_clips, validate

SIGMA_DATA = 0.05
CONFIG = PriorConfig(
    diffusion=DiffusionConfig(sigma_data=SIGMA_DATA), training=TrainingConfig(crop_seconds=1.0)
)


class Wiener(nn.Module):
    """The exact denoiser of white Gaussian clips: c_skip u, whose loss is 1 at every sigma."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, u, sigma, lips=None):
        return u * (SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2))[:, None]


class FakeReader(dict):
    """A ShardReader of clips in memory."""

    @property
    def clips(self):
        keys = list(self)
        return {"key": keys, "num_samples": [len(self[key].audio) for key in keys]}


def white_clips(count: int = 4) -> ValidationClips:
    generator = torch.Generator().manual_seed(0)
    audio = SIGMA_DATA * torch.randn(count, 20_000, generator=generator)
    return ValidationClips(audio, None, tuple(f"clip{n}" for n in range(count)))


def test_the_loss_of_the_wiener_denoiser_is_one():
    figures = validate(Wiener(), white_clips(), SIGMA_DATA, batch_size=3)
    for name, value in (("loss", 1), ("gain", 0)):
        keys = [f"valid/{name}"] + [f"valid/{name}_sigma_{sigma:g}" for sigma in SIGMAS]
        assert [figures[key] for key in keys] == pytest.approx([value] * len(keys), abs=0.03)


class Halved(Wiener):
    """Errs by half as much as the Wiener filter of white noise, whatever it is shown."""

    def __init__(self, clips):
        super().__init__()
        self.audio = clips.audio

    def forward(self, u, sigma, lips=None):
        return (super().forward(u, sigma) + self.audio) / 2


def test_half_the_error_is_six_decibels_of_gain():
    clips = white_clips()
    figures = validate(Halved(clips), clips, SIGMA_DATA, batch_size=4)
    gains = [figures[f"valid/gain_sigma_{sigma:g}"] for sigma in SIGMAS]
    assert gains == pytest.approx([20 * math.log10(2)] * len(SIGMAS), abs=1e-4)
    assert figures["valid/gain"] == pytest.approx(20 * math.log10(2), abs=1e-4)


def test_the_spectral_baseline_knows_the_spectrum():
    time = torch.arange(20_000)
    tones = 0.05 * math.sqrt(2) * torch.sin(2 * math.pi * 0.1 * time)[None]
    clips = ValidationClips(tones, None, ("a",))
    figures = validate(Wiener(), clips, SIGMA_DATA, batch_size=2)
    assert figures["valid/gain"] == pytest.approx(0, abs=0.01)
    assert figures["valid/gain_over_spectrum_sigma_0.25"] < -20  # a tone is all but known


def test_batch_size_and_repetition_change_nothing():
    clips = white_clips()
    first = validate(Wiener(), clips, SIGMA_DATA, batch_size=4)
    second = validate(Wiener(), clips, SIGMA_DATA, batch_size=1)
    assert first == pytest.approx(second, rel=1e-6, abs=1e-6)


def test_examples():
    signals = examples(Wiener(), white_clips())
    assert list(signals)[0] == "clean" and len(signals) == 5
    error = signals["noisy_sigma_0.25"] - signals["clean"]
    assert float(error.std()) == pytest.approx(0.25, rel=0.05)


def clip(key: str, seconds: float, dim: int | None = 4) -> Clip:
    rate = 8000
    audio = np.sin(np.arange(int(rate * seconds)) / 7).astype(np.float32)
    lips = None if dim is None else np.arange(int(25 * seconds) * dim, dtype=np.float32)
    return Clip(key, audio, rate, lips if lips is None else lips.reshape(-1, dim), {})


def test_centre_crops_with_their_lips():
    reader = FakeReader(a=clip("a", 2), b=clip("b", 3), short=clip("short", 0.5))
    clips = load_clips(reader, CONFIG, 8000, count=8, with_lips=True)
    assert clips.keys == ("a", "b") and clips.audio.shape == (2, 8000)
    assert torch.equal(clips.lips[1][:, 0], torch.arange(25, 50) * 4.0)
    assert math.isclose(float(clips.audio[0].square().mean().sqrt()), SIGMA_DATA, rel_tol=0.02)


def test_only_short_clips():
    with pytest.raises(DavssError, match="crop_seconds"):
        load_clips(FakeReader(a=clip("a", 0.5)), CONFIG, 8000, count=2, with_lips=False)
