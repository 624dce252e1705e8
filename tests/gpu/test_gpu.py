"""What needs a GPU for real: `make test-gpu`; skipped without one.

bfloat16 against float32 and against the CPU, mixtures on either device, backward passes, two steps
of training, and DDP of one process.
"""

import socket
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from davss import Separator
from davss.config import DiffusionConfig, SamplerConfig, SeparationConfig
from davss.networks import BRAVEn
from davss.shards.loader import Batch
from davss.training.loop import Objective, to_device
from tests.priors import make_noise_prior, make_speech_prior

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

SAMPLERS = {
    "dps": SamplerConfig(num_steps=4, s_churn=1.0),
    "daps": SamplerConfig(name="daps", num_steps=4, shares="measured"),
    "pseudo": SamplerConfig(name="pseudo", num_steps=4),
}
every_sampler = pytest.mark.parametrize("config", SAMPLERS.values(), ids=SAMPLERS.keys())


def separate(config, device, precision="float32", noise=None, **execution):
    """Sources (2, 3, T), with the mixture and lips on `device`."""
    seeded = torch.Generator().manual_seed(0)
    mixture = 0.1 * torch.randn(2, 4000, generator=seeded)
    lips = torch.randn(2, 2, 13, 6, generator=seeded)
    settings = SeparationConfig(precision=precision, **execution)
    separator = Separator(
        make_speech_prior(), noise or make_noise_prior(), config, device, settings
    )
    result = separator(mixture.to(device), lips.to(device), sample_rate=8000)
    assert result.errors == [None, None]
    assert result.speech.device.type == result.noise.device.type == device
    return torch.cat([result.speech, result.noise[:, None]], dim=1).cpu()


@every_sampler
@pytest.mark.parametrize("noise", [None, "nmf", "gaussian"])
def test_a_gpu_separates_as_a_cpu_does(config, noise):
    found, expected = (separate(config, device, noise=noise) for device in ("cuda", "cpu"))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


@every_sampler
def test_bfloat16_is_float32_to_its_precision(config):
    found, expected = (separate(config, "cuda", p) for p in ("bfloat16", "float32"))
    assert (found - expected).square().mean().sqrt() < 0.1 * expected.square().mean().sqrt()


@pytest.mark.parametrize("execution", [{"checkpointing": True}, {"compile": True}])
def test_execution_changes_results_by_rounding_only(execution):
    config = SAMPLERS["dps"]
    found, expected = separate(config, "cuda", **execution), separate(config, "cuda")
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_a_separation_waits_for_the_gpu_once_a_draw_not_once_a_step(monkeypatch):
    """Steps are queued: torch reports every operation that waits, and more steps wait no more."""
    counts = []
    for num_steps in (3, 9):
        separator = Separator(
            make_speech_prior(), make_noise_prior(), replace(SAMPLERS["daps"], num_steps=num_steps)
        )
        mixture = 0.1 * torch.randn(1, 4000)
        separator(mixture, sample_rate=8000)
        torch.cuda.set_sync_debug_mode("warn")
        with pytest.warns(UserWarning) as caught:
            separator(mixture, sample_rate=8000)
        torch.cuda.set_sync_debug_mode("default")
        counts.append(len(caught))
    assert counts[0] == counts[1]


def make_batch():
    seeded = torch.Generator().manual_seed(0)
    audio, noise = (torch.randn(4, 4000, generator=seeded) for _ in range(2))
    lips = torch.randn(4, 13, 6, generator=seeded)
    uniforms = torch.rand(4, 3, generator=seeded, dtype=torch.float64)
    has_lips = torch.ones(4, dtype=torch.bool)
    return Batch(0.05 * audio, lips, has_lips, ["clip"] * 4, noise, uniforms)


def train(device, precision=torch.float32, wrap=lambda objective: objective):
    """Losses before two steps of Adam and after them."""
    prior = make_speech_prior().to(device)
    objective = wrap(Objective(prior, DiffusionConfig(), precision))
    optimiser = torch.optim.Adam(prior.parameters(), lr=1e-3, fused=device == "cuda")
    batch, losses = to_device(make_batch(), torch.device(device)), []
    for _ in range(3):
        optimiser.zero_grad()
        loss = objective(batch)
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    return losses


def test_two_training_steps():
    expected = train("cpu")
    assert train("cuda") == pytest.approx(expected, rel=0.02)
    assert train("cuda", torch.bfloat16) == pytest.approx(expected, rel=0.1)
    assert expected[2] < expected[0]


def test_ddp_of_one_process():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dist.init_process_group("nccl", init_method=address, rank=0, world_size=1)
    try:
        assert train("cuda", wrap=DistributedDataParallel) == pytest.approx(train("cuda"), rel=1e-3)
    finally:
        dist.destroy_process_group()


def test_braven():
    torch.manual_seed(0)
    network = BRAVEn(attention_dim=16, attention_heads=2, linear_units=32, num_blocks=2)
    frames, lengths = torch.randn(2, 7, 88, 88), torch.tensor([7, 5])
    expected = network(frames, lengths)
    found = network.cuda()(frames.cuda(), lengths.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)
