"""Weights that anyone can make again from the names of parameters (tests/data/README.md)."""

import zlib

import numpy as np
import torch


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """The golden value of one parameter, float64."""
    crc = zlib.crc32(name.encode())
    size = int(np.prod(shape))
    amplitude = (size / shape[0]) ** -0.5 if len(shape) >= 2 else 0.1
    phase = 2 * np.pi * (crc % 10007) / 10007
    values = amplitude * np.sin(0.37 * np.arange(size) * (1 + (crc % 13) / 13) + phase)
    if len(shape) == 1 and name.endswith("weight"):
        values += 1
    return torch.tensor(values.reshape(shape))
