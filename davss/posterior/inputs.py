"""What a separator is given, checked before any work is done.

Shapes: B batch · L speakers with lips · T samples · V video frames · D visual feature size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from davss.errors import DavssError
from davss.media import FPS

SILENCE = 1e-9  # a standard deviation below this is digital silence
BLOCK = 1 << 18  # samples
SHORTEST = 0.1  # seconds: a few windows of the networks' STFT


def check_mixture(mixture: Tensor, keys: Sequence[str], sample_rate: int) -> Tensor:
    """The offset (B, 1) of each item; DavssError names the first that is non-finite or silent, and
    what is wrong with all of them.
    """
    if mixture.ndim != 2 or len(keys) != len(mixture) or len(mixture) == 0:
        raise DavssError(
            f"mixture: shape {tuple(mixture.shape)} with {len(keys)} keys; give (B, T) and B keys"
        )
    if sample_rate < 1:
        raise DavssError(f"sample_rate = {sample_rate}: give samples per second, such as 16000")
    if mixture.shape[1] < SHORTEST * sample_rate:
        raise DavssError(
            f"mixture: lasts {mixture.shape[1] / sample_rate:.3f} s; give at least {SHORTEST:g} s"
        )
    blocks = mixture.split(BLOCK, dim=1)  # doubles of an hour would take gigabytes
    total = torch.stack([block.double().sum(dim=1) for block in blocks]).sum(dim=0)
    for item, key in zip(total, keys, strict=True):
        if not torch.isfinite(item):
            raise DavssError(f"{key}: the mixture has NaN or infinite samples; repair it")
    offset = total[:, None] / mixture.shape[1]
    squares = torch.stack([(block - offset).square().sum(dim=1) for block in blocks]).sum(dim=0)
    spread = (squares / (mixture.shape[1] - 1)).sqrt()
    # a constant has a spread of rounding errors
    for item, key in zip(spread <= SILENCE + 1e-6 * offset[:, 0].abs(), keys, strict=True):
        if item:
            raise DavssError(f"{key}: the mixture is silent; there is nothing to separate")
    return offset.float()


def check_lips(lips: Tensor, batch: int, seconds: float) -> None:
    """Raise DavssError unless lips are (B, L, V, D), each frame finite or, where nothing is seen,
    NaN, and last as long as the mixture, to a frame.
    """
    if lips.ndim != 4 or len(lips) != batch:
        raise DavssError(f"lips: shape {tuple(lips.shape)}; give (B, L, V, D) with B = {batch}")
    if not (torch.isfinite(lips).all(-1) | torch.isnan(lips).all(-1)).all():
        raise DavssError(
            "lips: NaN or infinite features; compute them again, or let all of a frame that is not "
            "seen be NaN"
        )
    if abs(lips.shape[2] - seconds * FPS) > 1:
        raise DavssError(
            f"lips: {lips.shape[2]} frames are {lips.shape[2] / FPS:.2f} s, the mixture "
            f"lasts {seconds:.2f} s; cut both to the same stretch"
        )


def count_speakers(lips: Tensor | None, num_speakers: int | None) -> int:
    """Speakers in all: those with lips and those off-screen."""
    seen = lips.shape[1] if lips is not None else 0
    if num_speakers is None:
        return seen or 1
    if num_speakers < seen:
        raise DavssError(f"num_speakers = {num_speakers}, but lips of {seen} speakers were given")
    return num_speakers
