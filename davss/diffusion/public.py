"""Public checkpoints of NCSN++M (BUDDy, StoRM, SGMSE and their kin), read without running code.

Their weights have the names of `NCSNpp.load_public` behind some prefix (`dnn.`, `module.`,
`score_net.` …), in a dictionary or below `state_dict`, `model`, `network`. EMA weights are taken
where there are any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from davss.config import DiffusionConfig, NetworkConfig
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior
from davss.errors import DavssError
from davss.networks.visual import load_visual_encoder
from davss.networks.weights import read_weights_file
from davss.storage import sha256

_NAME = re.compile(r"(.*?)((?:all_modules\.\d+|output_layer)\..+)")
_AVERAGES = ("ema", "ema_state_dict", "model_ema", "ema_model")
_NESTS = ("state_dict", "model", "network", "net", "model_state_dict")
_FOURIER = "all_modules.0.W"
_PREFERRED = ("score_net.", "dnn.", "module.", "network.", "model.", "")


def source_digest(path: Path) -> str:
    """sha256 of the weights that `path`, a prior's directory or a checkpoint, holds."""
    return sha256(_weights_file(path))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by the names of `NCSNpp` (`all_modules.N…`, `film…`), from a prior's directory or a
    public checkpoint.

    Raises DavssError for a missing file, pickled objects, and files without an NCSN++M.
    """
    file = _weights_file(path)
    content = read_weights_file(file)
    return content if path.is_dir() else _network_weights(content, path)


def public_prior(
    path: Path,
    sample_rate: int,
    network: NetworkConfig,
    diffusion: DiffusionConfig,
    visual_encoder: Path | None = None,
) -> NoisePrior | SpeechPrior:
    """A prior of a public checkpoint: audio only, or with a folder that names a visual encoder a
    speech prior whose lips change nothing yet. `nf` is read from the checkpoint.

    Raises DavssError naming the parameter that does not fit.
    """
    weights = read_weights(path)
    stem = weights.get("all_modules.3.weight")
    if stem is None or stem.ndim != 4:
        raise DavssError(f"{path}: parameter 'all_modules.3.weight' is missing; is it an NCSN++M?")
    network = NetworkConfig(**{**vars(network), "nf": stem.shape[0]})
    training = {"converted_from": path.name, "sha256": source_digest(path)}
    info = PriorInfo(sample_rate, network, diffusion, training)
    prior: NoisePrior | SpeechPrior
    if visual_encoder is None:
        prior = NoisePrior(info)
    else:
        prior = SpeechPrior(info, load_visual_encoder(visual_encoder))
    try:
        prior.network.load_public(weights)
    except DavssError as error:
        raise DavssError(f"{path}: {error}") from None
    return prior.eval()


def _weights_file(path: Path) -> Path:
    file = path / "weights.safetensors" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise DavssError(f"{file}: no such file; give a prior's directory or a checkpoint")
    return file


def _network_weights(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise DavssError(f"{path}: not a dictionary of weights; give a checkpoint, unchanged")
    plain = _find(content)
    for name in _AVERAGES:
        average = content.get(name)
        if not isinstance(average, Mapping):
            continue
        if isinstance(shadow := average.get("shadow_params"), Sequence):
            return _pair(plain, shadow, path)
        if found := _find(average):
            # an average of parameters may lack buffers, which are not trained
            return {**plain, **found}
    if not plain:
        raise DavssError(f"{path}: no parameter 'all_modules.N…' in it; is it an NCSN++M?")
    return plain


def _find(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of one network among `content` or what is nested in it; empty if there are none.

    Where there are several networks (StoRM has two) the score network is taken.
    """
    for nested in (content, *(content.get(name) for name in _NESTS)):
        if not isinstance(nested, Mapping):
            continue
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in nested.items():
            match = _NAME.fullmatch(str(name))
            if match and isinstance(value, Tensor):
                groups.setdefault(match[1], {})[match[2]] = value
        if groups:
            return groups[min(groups, key=_preference)]
    return {}


def _preference(prefix: str) -> tuple[int, str]:
    ranks = [rank for rank, name in enumerate(_PREFERRED) if prefix.endswith(name)]
    return min(ranks), prefix


def _pair(plain: dict[str, Tensor], shadow: Sequence[Any], path: Path) -> dict[str, Tensor]:
    """torch_ema's list of averages, in the order of the parameters, with the names of `plain`.

    Fixed Fourier features are in the list of some versions and not of others.
    """
    names = list(plain)
    for candidates in (names, [name for name in names if name != _FOURIER]):
        if len(candidates) == len(shadow) and all(
            plain[name].shape == value.shape for name, value in zip(candidates, shadow, strict=True)
        ):
            return plain | dict(zip(candidates, shadow, strict=True))
    raise DavssError(
        f"{path}: its {len(shadow)} averaged weights do not match the {len(names)} names of its "
        "network; save the averaged network's state_dict and give that"
    )
