"""The forecast of a training run against a real step of a small network."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from davss.config import TrainingConfig
from davss.training.forecast import forecast_training, saved_bytes
from tests.priors import make_noise_prior, make_speech_prior

SAMPLES = 3200


@pytest.mark.parametrize("make", [make_noise_prior, make_speech_prior])
def test_flops_of_a_real_step(make):
    prior = make().train()
    training = TrainingConfig(crop_seconds=0.4, global_batch_size=4, total_samples=10)
    forecast = forecast_training(prior, training, num_workers=2, gpu_tflops=1e-3)
    assert (forecast.steps, forecast.worker_batch) == (3, 2)
    # the counter does not know the CPU's fused attention
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        prior(torch.randn(4, SAMPLES), torch.full((4,), 0.1)).sum().backward()
    assert forecast.step_flops == pytest.approx(counter.get_total_flops(), rel=0.1)
    assert forecast.gpu_days == pytest.approx(3 * forecast.step_flops / 1e9 / 86_400)
    assert forecast.days == forecast.gpu_days / 2


def test_activations_of_a_real_forward():
    """The prior saves a little more than the U-Net: the spectrograms around it."""
    prior, storages = make_noise_prior().train(), {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storages.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
    with hooks, sdpa_kernel(SDPBackend.MATH):
        prior(torch.randn(1, SAMPLES), torch.full((1,), 0.1))
    real = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
    assert saved_bytes(prior, SAMPLES) == pytest.approx(real, rel=0.1)
