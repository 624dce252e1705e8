"""Trained priors and their directories: `weights.safetensors`, `config.json`, and for speech the
visual encoder.

A prior is a preconditioned denoiser that knows its sample rate and what it was trained with.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from davss.config import DiffusionConfig, NetworkConfig, parse, to_dict
from davss.diffusion import coloured
from davss.diffusion.denoiser import Denoiser
from davss.errors import DavssError
from davss.networks import NCSNpp
from davss.networks.eigenlips import VisualEncoder
from davss.networks.film import Modulations
from davss.networks.visual import load_visual_encoder, save_visual_encoder
from davss.networks.weights import read_weights_file
from davss.small import locate
from davss.storage import publish

FORMAT_VERSION = 1
COLOURED = "coloured_noise"  # says in `training` that it was trained for that too


@dataclass(frozen=True)
class PriorInfo:
    """What a prior's config.json says; `training` is free-form provenance (samples seen, git
    revision, shard digest).
    """

    sample_rate: int
    network: NetworkConfig
    diffusion: DiffusionConfig
    training: dict[str, Any] = field(default_factory=dict)


class Prior(Denoiser):
    """What both kinds have: a network, which is one with FiLM for lips of size `film_dim`, and what
    it was trained with.
    """

    def __init__(self, info: PriorInfo, film_dim: int | None = None) -> None:
        network = NCSNpp(**vars(info.network), film_dim=film_dim)
        super().__init__(network, info.diffusion.sigma_data)
        self.info = info

    @property
    def sample_rate(self) -> int:
        """Samples per second of the signals that this prior knows."""
        return self.info.sample_rate


class NoisePrior(Prior):
    """Diffusion prior of ambient noise; one that is `coloured` is preconditioned by the spectrum of
    the recording at hand (docs/method.md §2.1), and the noise it takes away may be coloured too.
    """

    kind = "noise"

    def forward(
        self,
        u: Tensor,
        sigma: Tensor,
        lips: Tensor | Modulations | None = None,
        spectrum: Tensor | None = None,
    ) -> Tensor:
        """Denoised u: (B, T) noisy noise, sigma as of `SpeechPrior` → (B, T); there are no lips.

        spectrum: (B, F) expected power of the clean noise, for a prior that is coloured; None: as
        white as sigma_data. Raises DavssError where the prior was trained without.
        """
        if not self.network.coloured:
            if spectrum is not None:
                raise DavssError("noise prior: it was trained without spectra; give it none")
            _check_white(sigma)
            return super().forward(u, sigma)
        if spectrum is None:
            spectrum = u.new_full((len(u), self.network.num_bins), self.sigma_data**2)
        return coloured.denoise(self, u, sigma, spectrum)

    def of_recording(self, recording: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The denoiser of the noise in a recording (B, T), which is at the level of `u`: coloured
        by what of the recording is stationary.
        """
        if not self.network.coloured:
            return self
        spectrum = coloured.blind_spectrum(self.network, recording)
        return partial(self, spectrum=spectrum)


class SpeechPrior(Prior):
    """Diffusion prior of one person's clean speech given lip features (B, V, lips_dim) at 25
    frames per second; one that is `coloured` takes away coloured Gaussian noise too (docs/method.md
    §2.3).
    """

    kind = "speech"

    def __init__(self, info: PriorInfo, visual_encoder: VisualEncoder) -> None:
        super().__init__(info, visual_encoder.dim)
        self.visual_encoder = visual_encoder

    def forward(self, u: Tensor, sigma: Tensor, lips: Tensor | Modulations | None = None) -> Tensor:
        """Denoised u: (B, T) noisy signals → (B, T).

        sigma: (B,) levels of white noise, or, for a prior that is coloured, (B, F, N) variances of
        the bins of an STFT of any size whose windows have unit energy; lips: (B, V, D), None for
        the null condition, or what `condition` made of them.
        """
        if not self.network.coloured:
            _check_white(sigma)
            return super().forward(u, sigma, lips)
        if not isinstance(lips, list):
            lips = self.condition(lips, u.shape[-1])
        return coloured.denoise(self, u, sigma, modulations=lips)


def _check_white(sigma: Tensor) -> None:
    if sigma.ndim > 1:
        raise DavssError("prior: it was trained for white noise alone; give it levels (B,)")


def save_prior(prior: SpeechPrior | NoisePrior, path: str | Path, *, half: bool = False) -> None:
    """Write a prior's directory, all of it or nothing; half: matrices and kernels as float16.

    Raises DavssError for weights beyond the range of float16.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "kind": prior.kind,
        "sample_rate": prior.info.sample_rate,
        "network": to_dict(prior.info.network),
        "diffusion": to_dict(prior.info.diffusion),
        "training": prior.info.training,
    }
    with publish(Path(path)) as directory:
        directory.mkdir(parents=True)
        weights = {k: v.detach().cpu().contiguous() for k, v in prior.network.state_dict().items()}
        if half:
            weights = {name: _halved(name, weight) for name, weight in weights.items()}
        save_file(weights, directory / "weights.safetensors")
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if isinstance(prior, SpeechPrior):
            save_visual_encoder(prior.visual_encoder, directory)


def _halved(name: str, weight: Tensor) -> Tensor:
    """A weight as float16; vectors are left: they are small, and the Fourier features are phases
    that errors are multiplied into.
    """
    if weight.ndim < 2:
        return weight
    rounded = weight.half()
    if not torch.isfinite(rounded).all():
        raise DavssError(f"parameter '{name}' does not fit into half precision; keep float32")
    return rounded


def load_prior(path: str | Path) -> SpeechPrior | NoisePrior:
    """Read a prior's directory, or a packaged prior by its name (`davss.small.NAMES`), unless a
    directory bears that name. The prior is float32, in evaluation mode, on the CPU. A visual
    encoder that is BRAVEn still needs its checkpoint to make features: `BravenLips.at`.

    Raises DavssError if the directory, a file or a parameter is missing or does not fit.
    """
    path = locate(path)
    config = _read_config(path)
    info = PriorInfo(
        config["sample_rate"],
        parse(NetworkConfig, config["network"], f"{path}/config.json: network"),
        parse(DiffusionConfig, config["diffusion"], f"{path}/config.json: diffusion"),
        config.get("training", {}),
    )
    prior: SpeechPrior | NoisePrior
    if config["kind"] == SpeechPrior.kind:
        prior = SpeechPrior(info, load_visual_encoder(path))
    else:
        prior = NoisePrior(info)
    try:
        prior.network.load_state_dict(read_weights_file(path / "weights.safetensors"))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DavssError(
            f"{path}/weights.safetensors: does not fit its config.json ({reason})"
        ) from None
    return prior.eval().requires_grad_(False)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise DavssError(
            f"{path}: no prior here (no config.json); make one with `dvc repro` or correct the path"
        ) from None
    except OSError as error:
        raise DavssError(f"{path}/config.json: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # also what is not UTF-8
        raise DavssError(f"{path}/config.json: not valid JSON ({error})") from None
    if (
        not isinstance(config, dict)
        or config.get("format_version") != FORMAT_VERSION
        or config.get("kind") not in ("speech", "noise")
    ):
        raise DavssError(
            f"{path}/config.json: not a prior of format {FORMAT_VERSION}; update davss or retrain"
        )
    rate = config.get("sample_rate")
    if type(rate) is not int or rate < 1 or not {"network", "diffusion"} <= set(config):
        raise DavssError(
            f"{path}/config.json: lacks sample_rate, network or diffusion; get it again"
        )
    return config
