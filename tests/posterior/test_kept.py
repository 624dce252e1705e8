"""A long separation that is stopped goes on window by window, to the same end."""

from __future__ import annotations

import pytest
import torch

from davss.config import DapsConfig
from davss.posterior.kept import Kept
from davss.posterior.separator import Separator
from tests.priors import make_noise_prior, make_speech_prior

SHORT = {"num_steps": 2, "num_samples": 2, "window_seconds": 0.4, "overlap_seconds": 0.08}


class Stop(Exception):
    pass


def separator(**changes) -> Separator:
    sampler = DapsConfig(**SHORT | changes)
    return Separator(make_speech_prior(), make_noise_prior(), sampler, "cpu")


@pytest.fixture
def mixture() -> torch.Tensor:
    return 0.1 * torch.randn(1, 9600, generator=torch.Generator().manual_seed(0))


def run(mixture, folder=None, after=None, **changes):
    """The separation, windows that were found, and steps taken; stops `after` so many of them."""
    steps, found = [], []

    def count(step):
        steps.append(step.sigma)
        if after is not None and len(steps) > after:
            raise Stop

    kept = Kept(folder, found.append) if folder else None
    result = separator(**changes)(mixture, sample_rate=8000, keys=["a"], callback=count, kept=kept)
    return result, sum(found), len(steps)


def test_a_second_run_goes_on(mixture, tmp_path):
    whole, _, steps = run(mixture)
    folder = tmp_path / "kept"
    with pytest.raises(Stop):
        run(mixture, folder, after=steps - 2)
    before = len(list(folder.iterdir()))
    again, found, rest = run(mixture, folder)
    assert found > 0 and 0 < rest < steps and before == len(list(folder.iterdir())) - 1
    for one, other in ((whole.speech, again.speech), (whole.noise, again.noise)):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert whole.spread is not None and again.spread is not None
    torch.testing.assert_close(whole.spread, again.spread, rtol=0, atol=0)
    assert set(whole.trace) == set(again.trace)


def test_nothing_is_taken_for_what_it_is_not(mixture, tmp_path):
    _, _, steps = run(mixture, tmp_path)
    assert run(mixture, tmp_path)[2] == 0
    assert run(1.01 * mixture, tmp_path)[2] == steps
    assert run(mixture, tmp_path, rho=5.0)[2] == steps
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    assert run(mixture, tmp_path)[1:] == (0, steps)


def test_a_short_recording_keeps_nothing(mixture, tmp_path):
    run(mixture[:, :3200], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
