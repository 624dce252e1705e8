"""The inverse STFT of networks, noise models and shares.

Shapes: B batch · T samples · F bins · N frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def inverse_stft(z: Tensor, hop: int, window: Tensor, length: int) -> Tensor:
    """(B, F, N) complex, frame n centred on sample n · hop → (B, length).

    `torch.istft` looks at the sum of its windows, and on a GPU all that is queued is waited for:
    there it is the same overlap-add without that look.
    """
    n_fft = len(window)
    if not z.is_cuda:
        return torch.istft(z, n_fft, hop, window=window, length=length)
    frames = torch.fft.irfft(z, n_fft, dim=1) * window[:, None]
    weights = window.square()[None, :, None].expand(1, -1, frames.shape[-1])
    signal = _overlap_add(frames, hop) / _overlap_add(weights, hop)
    signal = signal[:, n_fft // 2 :][:, :length]
    return F.pad(signal, (0, length - signal.shape[-1]))


def _overlap_add(frames: Tensor, hop: int) -> Tensor:
    """(B, n_fft, N) → (B, n_fft + hop · (N − 1))."""
    n_fft, num_frames = frames.shape[1:]
    size = (1, n_fft + hop * (num_frames - 1))
    return F.fold(frames, size, (1, n_fft), stride=(1, hop))[:, 0, 0]
