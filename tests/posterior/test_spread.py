"""How sure the sampler is of each second of a source."""

import pytest
import torch

from davss.posterior.spread import confidence, spread


def test_confidence_is_the_energy_on_which_draws_agree():
    rate = 8000
    torch.manual_seed(0)
    source = 0.1 * torch.randn(round(3.5 * rate))
    source[2 * rate : 3 * rate] = 0
    errors = 0.2 * torch.randn(400, len(source))
    errors[:, :rate], errors[:, 2 * rate :] = 0, 0
    draws = (source + errors - errors.mean(0))[:, None, None]
    found = confidence(source, spread(draws, rate)[0, 0], rate)
    assert len(found) == 4 and found[3] == pytest.approx(1, abs=1e-3)
    assert found[0] == pytest.approx(1, abs=0.02)  # but for a frame that sees the next second
    assert found[1] == pytest.approx(0.2, abs=0.02)
    silent = torch.zeros(rate)
    assert confidence(silent, torch.zeros(129, 125), rate) == [None]
