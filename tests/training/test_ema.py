"""The EMA against its closed form."""

import torch
from torch import nn

from davss.training.ema import Ema


def module_with(value: float) -> nn.Linear:
    module = nn.Linear(2, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def test_ramp_up_then_constant_decay():
    module = module_with(1.0)
    ema = Ema(module, decay=0.5)
    expected = 1.0
    for n, value in enumerate([2.0, -1.0, 0.5, 3.0, 3.0, 4.0, 1.0, 0.0, 2.0, 5.0, 1.0, 1.0]):
        nn.init.constant_(module.weight, value)
        ema.update(module)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert torch.allclose(ema.module.weight, torch.full((1, 2), expected), atol=1e-6)
    assert ema.current_decay() == 0.5


def test_state_and_copy():
    module = module_with(1.0)
    ema = Ema(module, decay=0.9)
    nn.init.constant_(module.weight, 3.0)
    ema.update(module)
    other = Ema(module_with(0.0), decay=0.9)
    other.load_state_dict(ema.state_dict())
    assert other.num_updates == 1
    target = module_with(7.0)
    other.copy_to(target)
    assert torch.equal(target.weight, ema.module.weight)
    assert not any(p.requires_grad for p in ema.module.parameters())
