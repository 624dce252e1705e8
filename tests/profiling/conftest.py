"""Small priors for `davss profile`."""

import pytest
import torch

from tests.priors import make_noise_prior, make_speech_prior


@pytest.fixture(scope="module")
def priors():
    return make_speech_prior(), make_noise_prior()


@pytest.fixture(autouse=True)
def one_thread():
    """Signals are so short here that threads would wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
