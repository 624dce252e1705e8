"""The network that sees frequencies and levels: a Wiener filter within easy reach."""

import torch

from davss.networks import NCSNpp, layers
from davss.networks.layers import SPECTRAL_CHANNELS, spectral_features


def test_features_tell_level_mean_level_and_place():
    spectrogram = torch.zeros(1, 2, 8, 4)
    spectrogram[0, 0, 3, 1] = 10.0  # a power of 100 in one of four frames
    features = spectral_features(spectrogram)
    assert features.shape == (1, SPECTRAL_CHANNELS, 8, 4)
    assert features[0, 0, 3, 1].item() == torch.log10(torch.tensor(100.0)).item() / 2
    mean = torch.log10(torch.tensor(25.0)) / 2
    torch.testing.assert_close(features[0, 1, 3], mean.expand(4))
    assert features[0, 2, 0, 0] == 1 and features[0, 2, -1, 0] == -1


def test_a_gain_for_each_bin_is_learnt_by_the_last_bias():
    """With all else at its start the output layer's bias of the gain multiplies the input."""
    network = NCSNpp(nf=8, ch_mult=(1, 2), n_fft=62, hop_length=32, spectral=True).double()
    x = torch.randn(2, 1, 640, dtype=torch.float64)
    label = torch.zeros(2, dtype=torch.float64)
    assert network(x, label).abs().max() < 1e-3
    with torch.no_grad():
        network.output_layer.bias[2] = -0.5
    torch.testing.assert_close(network(x, label), -0.5 * x, atol=1e-3, rtol=0)


def test_features_are_conditions_that_take_no_gradient(monkeypatch):
    network = NCSNpp(nf=8, ch_mult=(1, 2), n_fft=62, hop_length=32, spectral=True).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, 1, 640, dtype=torch.float64, requires_grad=True)
    label = torch.zeros(1, dtype=torch.float64)

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(network(x, label).square().sum(), x)[0]

    whole = gradient()
    fixed = spectral_features(network.stft(x.detach()[:, 0]))
    monkeypatch.setattr(layers, "spectral_features", lambda spectrogram: fixed)
    torch.testing.assert_close(whole, gradient())
    assert whole.abs().max() > 0


def test_without_it_the_network_is_the_public_one():
    names = {n: p.shape for n, p in NCSNpp(nf=8).named_parameters()}
    assert names["all_modules.3.weight"][1] == 2 and names["output_layer.weight"][0] == 2
