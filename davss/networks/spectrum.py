"""The STFT of noise models, shares and spreads: Hann windows of unit energy, so that a bin
of white noise has the variance of a sample. Not to be confused with the likelihood's, BUDDy's.

Shapes: T samples · F bins · N frames.
"""

import torch
from torch import Tensor

from davss.networks import inverse


def stft(signal: Tensor, n_fft: int, hop: int, pad_mode: str = "constant") -> Tensor:
    """(…, T) → (…, F, N) complex, frame n centred on sample n · hop."""
    z = torch.stft(
        signal.flatten(0, -2),
        n_fft,
        hop,
        window=window(n_fft, signal.dtype, signal.device),
        pad_mode=pad_mode,
        return_complex=True,
    )
    return z.unflatten(0, signal.shape[:-1])


def inverse_stft(z: Tensor, n_fft: int, hop: int, length: int) -> Tensor:
    """(…, F, N) → (…, length)."""
    hann = window(n_fft, z.real.dtype, z.device)
    return inverse.inverse_stft(z.flatten(0, -3), hop, hann, length).unflatten(0, z.shape[:-2])


def window(n_fft: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Hann window of unit energy."""
    hann = torch.hann_window(n_fft, dtype=dtype, device=device)
    return hann / hann.square().sum().sqrt()
