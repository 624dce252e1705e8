"""In which type networks compute: float32, or bfloat16 under autocast.

Autocast surrounds calls of networks and nothing else: likelihoods and noise models stay float32.
"""

import contextlib

import torch

from davss.config import Precision


def resolve(precision: Precision, device: torch.device) -> torch.dtype:
    """What a setting means on a device; "auto" is bfloat16 on a GPU that multiplies it."""
    if precision == "auto":
        reduced = device.type == "cuda"
        if reduced:
            with torch.cuda.device(device):
                reduced = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if reduced else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Autocast to `dtype`; float32 leaves things as they are, another autocast included."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
