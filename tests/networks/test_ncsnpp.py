"""NCSN++M against the public reference implementation, and FiLM's promises."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from davss.errors import DavssError
from davss.networks import NCSNpp
from tests.networks.golden import weight

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def public_weights():
    keys = json.loads((DATA / "ncsnpp_m_nf16.keys.json").read_text())
    return {name: weight(name, shape) for name, shape in keys.items()}


def test_agrees_with_public_implementation(public_weights):
    golden = np.load(DATA / "ncsnpp_m_nf16.npz")
    network = NCSNpp(nf=16).double().load_public(public_weights)
    with torch.no_grad():
        y = network(*(torch.tensor(golden[name]).double() for name in ("x", "c_noise")))
    error = np.abs(y.numpy() - golden["y"]).max() / np.abs(golden["y"]).max()
    assert error < 1e-5  # the golden output is float32


@pytest.mark.parametrize(("nf", "millions"), [(128, 27.736590), (64, 6.95), (32, 1.75), (16, 0.44)])
def test_number_of_parameters(nf, millions):
    with torch.device("meta"):
        count = sum(p.numel() for p in NCSNpp(nf=nf).parameters())
    assert round(count / 1e6, 2) == round(millions, 2)
    assert nf != 128 or count == 27_736_590


def test_load_public_names_what_does_not_fit(public_weights):
    network = NCSNpp(nf=16)
    with pytest.raises(DavssError, match="'all_modules.0.W' is missing"):
        network.load_public({k: v for k, v in public_weights.items() if k != "all_modules.0.W"})
    with pytest.raises(DavssError, match="unknown parameter 'score'"):
        network.load_public({**public_weights, "score": torch.zeros(1)})
    with pytest.raises(DavssError, match="nf and ch_mult"):
        NCSNpp(nf=32).load_public(public_weights)


@pytest.fixture
def small():
    torch.manual_seed(0)
    network = NCSNpp(nf=8, ch_mult=(1, 2), n_fft=62, hop_length=32, film_dim=6)
    for name, parameter in network.named_parameters():
        if "Conv_1" in name or "all_modules" in name and parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=0.1)  # undo the zero initialisation
    return network


def test_film_starts_as_the_network_without_lips(small):
    x, c_noise, lips = torch.randn(2, 1, 500), torch.randn(2), torch.randn(2, 7, 6)
    torch.testing.assert_close(small(x, c_noise, lips), small(x, c_noise))


def test_lips_steer_the_output_once_trained(small):
    for site in small.film.sites:
        torch.nn.init.normal_(site.weight, std=0.1)
    x, c_noise, lips = torch.randn(2, 1, 500), torch.randn(2), torch.randn(2, 7, 6)
    with_lips, without = small(x, c_noise, lips), small(x, c_noise)
    assert (with_lips - without).abs().max() > 1e-3
    # items without lips get the null condition, whatever stands in their place
    mixed = small(x, c_noise, small.condition(lips, 500, torch.tensor([True, False])))
    torch.testing.assert_close(mixed, torch.stack([with_lips[0], without[1]]))


def test_lips_act_where_they_are_in_time():
    torch.manual_seed(0)
    network = NCSNpp(nf=8, ch_mult=(1, 2), n_fft=62, hop_length=32, film_dim=6)
    modulations = []
    for site in network.film.sites:
        torch.nn.init.normal_(site.weight, std=1.0)
    lips = torch.zeros(1, 100, 6)
    lips[:, 50:] = torch.randn(6)
    frames = 500
    modulations = network.film(lips, None, frames, 512)
    gamma = modulations[0][0][0, :, 0]
    assert (gamma[:, :240] - gamma[:, :1]).abs().max() < 1e-6
    assert (gamma[:, 260:] - gamma[:, -1:]).abs().max() < 1e-6
    assert (gamma[:, 0] - gamma[:, -1]).abs().max() > 0.1


@pytest.mark.parametrize("length", [1000, 1023, 2048])
def test_output_has_the_length_of_the_input(small, length):
    assert small(torch.randn(1, 1, length), torch.zeros(1)).shape == (1, 1, length)


def test_refuses_bins_that_cannot_be_halved():
    with pytest.raises(DavssError, match="network.n_fft = 256"):
        NCSNpp(nf=8, n_fft=256)
