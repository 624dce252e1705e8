"""From a plan to what separates it: trained priors, and the job of the runner."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch

from davss.code import code_digest
from davss.config import NoiseModel, SeparationConfig, digest
from davss.diffusion.prior import NoisePrior, SpeechPrior, load_prior
from davss.errors import DavssError
from davss.evaluation.external import PROGRAM, Peer
from davss.evaluation.mixtures import Library
from davss.evaluation.runner import Job, available
from davss.evaluation.trials import Arm
from davss.networks.precision import resolve
from davss.posterior.separator import Separator
from davss.storage import open_storage, sha256
from pipelines import count_of

SPEECH = "speech"
PRIORS = Path("data/priors")
PEERS = Path(".venv-peers/bin/python")


@dataclass(frozen=True)
class Makers:
    """What makes a plan's separators: priors by their name, and how to compute."""

    speech: SpeechPrior
    noises: Mapping[str, NoisePrior | NoiseModel]
    execution: SeparationConfig
    peers: Path | None

    def __call__(self, arm: Arm, device: str) -> Any:
        """The separator of an arm."""
        if arm.peer is not None:
            assert self.peers is not None
            return Peer(arm.peer, self.peers)
        noise = self.noises[arm.noise]
        return Separator(self.speech, noise, arm.sampler, device, execution=self.execution)


def make_job(arms: Iterable[Arm], library: Library, seed: int, execution: SeparationConfig) -> Job:
    """What the actors need; every piece is read and checked before anything starts.

    An arm's folder is named by all that decides its estimates but the mixture: settings, priors,
    shards, seed, code, and in what precision networks compute: where a GPU and a CPU differ in
    that, a run that is begun on one is not gone on with on the other.
    """
    arms = list(arms)
    speech_prior = read_prior(PRIORS / SPEECH, SpeechPrior, "train_speech")
    models = {arm.noise: read_noise_model(arm.noise) for arm in arms if arm.peer is None}
    common: list[Any] = [library.shards, seed, _precision(execution)]
    if library.pictures is not None:
        common.append(code_digest("davss.evaluation.pictures"))
    ours = [contents(PRIORS / SPEECH), code_digest("pipelines.evaluating")]
    folders = {}
    for arm in arms:
        used = [sha256(PROGRAM)] if arm.peer else [*ours, models[arm.noise][1]]
        folders[arm.name] = f"estimates/{digest(arm.settings, common, used)}"
    noises = {name: model for name, (model, _) in models.items()}
    make_separator = Makers(speech_prior, noises, execution, peers_python())
    return Job(library, make_separator, open_storage(), folders, seed)


def _precision(execution: SeparationConfig) -> str:
    """In what networks will compute; for GPUs that only the actors see, that they will say."""
    device = torch.device("cuda" if available().get("GPU") else "cpu")
    if execution.precision == "auto" and device.type == "cuda" and not torch.cuda.is_available():
        return "auto on GPUs"
    return str(resolve(execution.precision, device))


def read_noise_model(noise: str) -> tuple[NoisePrior | NoiseModel, list[str]]:
    """What the separator takes as its noise prior, and what names it in a digest."""
    for model in get_args(NoiseModel):
        if model == noise:
            return model, [model]
    prior = read_prior(PRIORS / noise, NoisePrior, f"train_noise@{noise}")
    return prior, contents(PRIORS / noise)


Prior = TypeVar("Prior", SpeechPrior, NoisePrior)


def read_prior(folder: Path, kind: type[Prior], stage: str) -> Prior:
    """The prior in `folder`, which must be of the right kind; `stage` is what trains it."""
    if not (folder / "config.json").is_file():
        raise DavssError(f"{folder}: no trained prior there; make it with `dvc repro {stage}`")
    prior = load_prior(folder)
    if not isinstance(prior, kind):
        raise DavssError(f"{folder}: holds a {prior.kind} prior, not a {kind.kind} prior; move it")
    return prior


def contents(folder: Path) -> list[str]:
    """The sha256 of every file of a prior, but those that desktops and editors hide there."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return [sha256(path) for path in files if not path.name.startswith(".")]


def peers_python() -> Path | None:
    """The Python of the peers' environment, that of DAVSS_PEERS or .venv-peers; None without."""
    given = os.environ.get("DAVSS_PEERS")
    python = Path(given) if given else PEERS
    if python.is_file():
        return python.absolute()
    if given:
        raise DavssError(f"DAVSS_PEERS={given}: no such file; name the Python of their environment")
    return None


def num_actors() -> int | None:
    """What DAVSS_NUM_ACTORS says."""
    return count_of("DAVSS_NUM_ACTORS", "separation actors")
