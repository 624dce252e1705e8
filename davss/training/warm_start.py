"""Warm starts: the weights of another prior, or of a public checkpoint, to begin training with.

An audio-only network becomes an audio-visual one: FiLM is zero at initialisation, so the new prior
starts as the old one, whatever the lips (docs/method.md §7).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.diffusion.public import read_weights
from davss.errors import DavssError

LEAST_SHARE = 0.5  # of the network's values; less is another network, and no start


def warm_start(prior: SpeechPrior | NoisePrior, path: Path) -> list[str]:
    """Load what fits of the weights at `path` into `prior`; one line for each that does not.

    Raises DavssError where less than half of the network fits, naming the first that does not.
    """
    weights = read_weights(path)
    own = prior.network.state_dict()
    fits, lines = _fitting(own, weights)
    trunk = {name: value for name, value in own.items() if not name.startswith("film.")}
    taken = sum(value.numel() for name, value in trunk.items() if name in fits)
    if taken < LEAST_SHARE * sum(value.numel() for value in trunk.values()):
        raise DavssError(
            f"init_from {path}: another network ({lines[0]}); give one with the nf and ch_mult of "
            "this prior"
        )
    prior.network.load_state_dict(fits, strict=False)
    return [f"init_from {path}: {line}" for line in lines]


def _fitting(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """What can be taken over as it is, and a line on everything else."""
    fits, lines = {}, []
    for name, value in own.items():
        if name not in weights:
            if not name.startswith("film."):
                lines.append(f"'{name}' is missing there, starts untrained")
        elif weights[name].shape != value.shape:
            lines.append(
                f"'{name}' has shape {tuple(weights[name].shape)} there, {tuple(value.shape)} "
                "here, starts untrained"
            )
        else:
            fits[name] = weights[name]
    lines += [f"'{name}' is unknown here, left out" for name in weights if name not in own]
    # FiLM of other lips: its last layers, not zero, would modulate by features that mean nothing
    conditioning = [name for name in own if name.startswith("film.")]
    if conditioning and not all(name in fits for name in conditioning):
        fits = {name: value for name, value in fits.items() if not name.startswith("film.")}
        lines.append("'film' starts at zero, without effect")
    return fits, lines
