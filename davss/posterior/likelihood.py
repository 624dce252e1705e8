"""Reconstruction likelihood: distance of power-compressed STFTs (DAVSS-NM §III; docs/method.md §4).

    ℓ = mean over frames Σ over bins |C(STFT y) − C(STFT ŷ)|²,   C(Z) = (|Z| + ε)^c exp(j∠Z)

The phase is kept. Not to be confused with a loss on magnitudes, nor with the mixture residual in
the time domain.

Shapes: B batch · T samples · F bins · N frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, N_FFT, HOP = 512, 1024, 128
EPSILON = 1e-8  # keeps the gradient of C finite at empty bins
SMALLEST = 1e-12  # the same for the phase, Z / |Z|


def compressed_stft(signal: Tensor, compression: float) -> Tensor:
    """(B, T) → (B, F, N) complex: STFT whose magnitudes are raised to the power `compression`."""
    # Computed in float32 and padded on the right, as in the reference implementation of BUDDy.
    window = torch.hann_window(WINDOW, device=signal.device).to(signal.dtype)
    window = F.pad(window / window.square().sum().sqrt(), (0, N_FFT - WINDOW))
    z = torch.stft(
        F.pad(signal, (0, WINDOW)),
        N_FFT,
        HOP,
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    magnitude = z.abs()
    return z * ((magnitude + EPSILON) ** compression / magnitude.clamp_min(SMALLEST))


def compressed_distance(target: Tensor, estimate: Tensor, compression: float) -> Tensor:
    """ℓ per item (B,) between a compressed STFT (B, F, N), computed once, and an estimated signal
    (B, T).
    """
    difference = target - compressed_stft(estimate, compression)
    return (difference.real.square() + difference.imag.square()).sum(dim=1).mean(dim=1)


def value_and_gradient(
    target: Tensor, estimate: Tensor, compression: float
) -> tuple[Tensor, Tensor]:
    """ℓ (B,) and ∂ℓ/∂estimate (B, T), item by item: threads that share a batch round differently,
    and an item's result must not depend on its batch to the last bit.
    """
    values, gradients = [], []
    for item, signal in zip(target.split(1), estimate.split(1), strict=True):
        signal = signal.detach().requires_grad_(True)
        with torch.enable_grad():
            value = compressed_distance(item, signal, compression)
        gradients += torch.autograd.grad(value.sum(), signal)
        values.append(value.detach())
    return torch.cat(values), torch.cat(gradients)


def reconstruction_loss(mixture: Tensor, estimate: Tensor, compression: float = 2 / 3) -> Tensor:
    """ℓ per item (B,) of an estimated mixture: mixture (B, T), estimate (B, T), both in the
    sampler's scale.
    """
    return compressed_distance(compressed_stft(mixture, compression), estimate, compression)
