"""The dry run counts the network that would be trained, and the work of its steps."""

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from davss.networks import NCSNpp
from davss.profiling import si
from davss.profiling.counting import pass_flops, saved_bytes
from davss.training.launch import Resources
from pipelines.compose import compose
from pipelines.plan_training import STEP_FORWARDS, forecast
from tests.priors import make_noise_prior, make_speech_prior

SAMPLES = 3200


def test_the_forecast_of_the_small_speech_prior(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(compose("small"))
    training = yaml.safe_load(path.read_text())["speech_prior"]["training"]
    lines = forecast("speech", path, Resources(2, 1, use_gpu=False, min_workers=2), 1e-3)
    # 48 eigenlips, as many differences, 20 bands
    network = NCSNpp(nf=16, n_fft=254, fourier_scale=2.0, spectral=True, film_dim=116)
    assert lines["parameters"] == f"{sum(p.numel() for p in network.parameters()):,}"
    batch, total = training["global_batch_size"], training["total_samples"]
    assert lines["steps"].startswith(f"{-(-total // batch):,} (") and "2 on CPU" in lines["workers"]
    assert "assumed (by --gpu-tflops), not measured" in lines["GPU days"]


@pytest.mark.parametrize("make", [make_noise_prior, make_speech_prior])
def test_work_and_activations_are_those_of_a_real_step(make):
    prior, storages = make().train().requires_grad_(True), {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storages.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
    # the counter does not know the CPU's fused attention
    with FlopCounterMode(display=False) as counter, hooks, sdpa_kernel(SDPBackend.MATH):
        prior(torch.randn(1, SAMPLES), torch.full((1,), 0.1)).sum().backward()
    expected = STEP_FORWARDS * pass_flops(prior, SAMPLES)[0]
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.1)
    real = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
    # the prior saves a little more than the U-Net: the spectrograms around it
    assert saved_bytes(prior, SAMPLES) == pytest.approx(real, rel=0.1)


def test_quantities_read_well():
    assert [si(v, "B") for v in (1.25e12, 27_736_590, 0)] == ["1.25 TB", "27.7 MB", "0.00 B"]
