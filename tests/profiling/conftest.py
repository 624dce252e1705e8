"""Small priors for `davss profile`."""

import pytest

from tests.priors import make_noise_prior, make_speech_prior


@pytest.fixture(scope="module")
def priors():
    return make_speech_prior(), make_noise_prior()
