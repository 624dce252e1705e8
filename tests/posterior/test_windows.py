"""Long recordings: windows cover them, overlaps agree, seams are no worse than the rest."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from davss import Separator
from davss.config import SamplerConfig
from davss.posterior.windows import Assembly, fade, plan_windows, waves
from tests.posterior import oracle
from tests.priors import make_noise_prior, make_speech_prior

RATE, GRID = 8000, 320
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("num_samples", [100, 36_000, 36_001, 40_000, 64_123, 200_000, 4_800_000])
def test_windows_cover_the_recording(num_samples):
    windows = plan_windows(num_samples, GRID, longest=32_000, overlap=4_000)
    assert windows.starts[0] == 0 and 0 <= windows.total - num_samples < GRID
    if num_samples <= 36_000:
        assert windows.starts == (0,) and windows.length == num_samples
        return
    assert windows.length <= 32_000 and windows.length % GRID == 0
    assert all(start % GRID == 0 for start in windows.starts)
    for index in range(len(windows) - 1):
        assert windows.overlaps(index)[1] == windows.overlaps(index + 1)[0]
        assert 4_000 - GRID < windows.overlaps(index)[1] <= 4_000 + 2 * GRID
    # as few as possible
    assert (len(windows) - 1) * 32_000 - (len(windows) - 2) * 4_000 < num_samples + 2 * GRID


def test_an_overlap_of_more_than_half_a_window_is_cut():
    windows = plan_windows(100_000, GRID, longest=8_000, overlap=7_900)
    assert windows.overlaps(3)[0] <= 4_000 + GRID


def test_waves():
    assert waves(1, in_order=False) == [[0]]
    assert waves(5, in_order=False) == [[0, 2, 4], [1, 3]]
    assert waves(3, in_order=True) == [[0], [1], [2]]


def test_assembly_gives_back_what_was_cut():
    signal = torch.randn(2, 88_000)
    windows = plan_windows(88_000, GRID, longest=32_000, overlap=4_000)
    padded = torch.nn.functional.pad(signal, (0, windows.total - 88_000))
    assembly = Assembly(windows, (2,))
    for index in (0, 2):
        known, settled = assembly.known(index)
        assert not settled.any()
        start = windows.starts[index]
        assembly.add(index, padded[:, start : start + windows.length])
    known, settled = assembly.known(1)
    left, right = windows.overlaps(1)
    start = windows.starts[1]
    torch.testing.assert_close(known[:, :left], padded[:, start : start + left])
    assert settled[0] == 1 and settled[-1] == 1 and settled[left // 4] == 1
    assert settled[left:-right].abs().max() == 0 and 0 < settled[3 * left // 4] < 1
    assembly.add(1, padded[:, start : start + windows.length])
    torch.testing.assert_close(assembly.result(88_000), signal)


def test_fades_of_neighbours_add_up_to_one():
    torch.testing.assert_close(fade(50, 0, 20)[-20:] + fade(50, 20, 0)[:20], torch.ones(20))


class GaussianSeparator(Separator):
    """A separator of two Gaussian sources of one spectrum, whose denoiser is known: the mixture
    does not say who is who, so draws that do not know of each other differ.
    """

    def denoisers(self, mixture, lips, num_speakers, generators):
        power = oracle.spectra(mixture.shape[-1])[:1].to(mixture)

        def denoise(u, sigma):
            gain = power / (power + sigma[:, None, None] ** 2)
            return torch.fft.irfft(torch.fft.rfft(u) * gain, n=u.shape[-1])

        return itertools.repeat(denoise)


def long_mixture(seconds):
    """Two Gaussian sources (1, 2, T) that a `GaussianSeparator` knows."""
    length = seconds * RATE
    white = torch.randn(1, 2, length, generator=torch.Generator().manual_seed(0))
    return oracle.color(white, oracle.spectra(length)[:1].float())


@pytest.mark.parametrize("sampler", ["daps", "dps"])
@pytest.mark.parametrize("in_order", [False, True])
def test_seams_are_as_good_as_the_rest(sampler, in_order):
    sources = long_mixture(16)
    config = SamplerConfig(
        name=sampler, num_steps=40, s_churn=10, window_seconds=1.0, overlap_seconds=0.25
    )
    separator = GaussianSeparator(make_speech_prior(), make_noise_prior(), config, device="cpu")
    if in_order:  # two speakers nobody sees; the third source there is none of
        separator.noise_prior = "none"
    speakers = 2 if in_order else 1
    result = separator(sources.sum(1), num_speakers=speakers, sample_rate=RATE)
    estimate = result.speech if in_order else torch.cat([result.speech, result.noise[:, None]], 1)
    error = (estimate - sources).square().sum(dim=(0, 1))
    level = estimate.square().sum(dim=(0, 1))
    seam = torch.zeros(len(error), dtype=torch.bool)
    windows = separator.plan(len(error))
    assert len(windows) > 15
    for index, start in enumerate(windows.starts[1:], start=1):
        seam[start : start + windows.overlaps(index)[0]] = True
    assert 10 * torch.log10(error[seam].mean() / error[~seam].mean()) < 0.2
    # the mean of two draws that do not know of each other would be up to 3 dB too quiet
    assert abs(10 * torch.log10(level[seam].mean() / level[~seam].mean())) < 0.3


TEN_MINUTES = """
import resource
import torch
from davss import Separator
from davss.config import SamplerConfig
from tests.priors import make_noise_prior, make_speech_prior

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

sampler = SamplerConfig(name="daps", num_steps=2, window_seconds=4.0)
separator = Separator(make_speech_prior(), make_noise_prior(), sampler, device="cpu")
mixture = 0.1 * torch.randn(1, 600 * 8000 + 123)
separator(mixture[:, :32000], sample_rate=8000)
before = megabytes()
result = separator(mixture, torch.randn(1, 1, 15001, 6), sample_rate=8000)
assert result.speech.shape == (1, 1, 600 * 8000 + 123)
assert torch.isfinite(result.speech).all() and result.errors == [None]
rest = mixture[0] - result.speech[0, 0] - result.noise[0]
assert rest.abs().max() < 1e-5, rest.abs().max()
print(megabytes() - before)
"""


@pytest.mark.slow
def test_ten_minutes_need_little_memory():
    command = [sys.executable, "-c", TEN_MINUTES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # the recording and its sources are 60 MB; the rest is copies of them, not windows
    assert float(done.stdout) < 500
