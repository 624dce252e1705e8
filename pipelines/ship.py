"""Put a trained prior into the package, as one of those that `davss.load_prior` knows by name.

    python -m pipelines.ship data/priors/speech small-speech
    python -m pipelines.ship data/priors/wham small-noise
    python -m pipelines.ship data/priors/dns small-noise-dns

Writes davss/small/NAME with weights in half precision, once it has measured that this costs
nothing, and adds what training took, from data/training/NAME/metrics.json, to its provenance. What
it prints belongs into davss/small/MODEL_CARD.md. No stage of dvc.yaml: it changes the sources.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from davss import small
from davss.diffusion.prior import NoisePrior, SpeechPrior, load_prior, save_prior
from davss.diffusion.public import source_digest
from davss.diffusion.schedule import VALIDATION_SIGMAS
from davss.errors import DavssError
from davss.networks.visual import BravenLips
from pipelines import run

MAX_DIFFERENCE = 0.01  # of what is denoised: far below what a seed of training changes


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="pipelines.ship", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("prior", type=Path, help="directory of a prior, such as data/priors/speech")
    parser.add_argument("name", choices=small.NAMES, help="what it will be called")
    text = "figures of its training (default: data/training/NAME/metrics.json beside the prior)"
    parser.add_argument("--metrics", type=Path, metavar="FILE", help=text)
    text = "keep the weights as they are, where half precision costs too much"
    parser.add_argument("--float32", action="store_true", help=text)
    arguments = parser.parse_args(argv)
    prior = read(arguments.prior, arguments.name)
    figures = training_figures(arguments.prior, arguments.metrics)
    shipped = {"weights_sha256": source_digest(arguments.prior), "figures": figures}
    prior.info = replace(prior.info, training=prior.info.training | {"shipped_from": shipped})
    print("\n".join(ship(prior, arguments.name, half=not arguments.float32)))


def read(folder: Path, name: str) -> SpeechPrior | NoisePrior:
    """The prior in `folder`, which must be of the kind that `name` is, and need nothing besides."""
    if not (folder / "config.json").is_file():
        raise DavssError(f"{folder}: no trained prior there; make it with `dvc repro` first")
    prior = load_prior(folder.resolve())
    wanted = SpeechPrior.kind if name in (small.SPEECH, small.SPEECH_16) else NoisePrior.kind
    if prior.kind != wanted:
        raise DavssError(f"{folder}: a {prior.kind} prior; {name} must be a {wanted} prior")
    if isinstance(prior, SpeechPrior) and isinstance(prior.visual_encoder, BravenLips):
        raise DavssError(
            f"{folder}: its lips need BRAVEn's checkpoint of 1.4 GB, which no user has"
        )
    return prior


def training_figures(folder: Path, metrics: Path | None) -> dict[str, Any]:
    """What training took and came to; where nothing is found a line on stderr says so."""
    path = metrics or _beside(folder.resolve())
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        if metrics is not None:
            raise DavssError(f"{path}: no such file; correct --metrics or leave it out") from None
        print(f"{path}: not there, so the seconds of training go unrecorded", file=sys.stderr)
        return {}
    except ValueError as error:
        raise DavssError(f"{path}: not valid JSON ({error})") from None


def _beside(folder: Path) -> Path:
    return folder.parent.parent / "training" / folder.name / "metrics.json"


def ship(prior: SpeechPrior | NoisePrior, name: str, *, half: bool) -> list[str]:
    """Write davss/small/NAME once everything is checked; returns lines for the model card."""
    with tempfile.TemporaryDirectory() as folder:
        save_prior(prior, Path(folder) / name, half=half)
        cost = difference(prior, load_prior(Path(folder) / name))
        added = small.size(Path(folder))
    if not cost <= MAX_DIFFERENCE:  # or it is NaN
        raise DavssError(
            f"half precision changes what it denoises by {cost:.1%}, more than "
            f"{MAX_DIFFERENCE:.0%}; give --float32"
        )
    old = small.FOLDER / name
    others = small.size() - sum(file.stat().st_size for file in old.glob("*"))
    total = (others + added) / 1e6
    if total > small.MAX_MEGABYTES:
        raise DavssError(
            f"{name}: {added / 1e6:.2f} MB, {total:.2f} MB with the other packaged priors; at most "
            f"{small.MAX_MEGABYTES:g} MB may be shipped, so train a smaller network"
        )
    save_prior(prior, old, half=half)
    for file in old.iterdir():
        file.chmod(0o644)  # safetensors lets no other user read
    training = prior.info.training
    figures = training["shipped_from"]["figures"]
    minutes = f"{figures['seconds'] / 60:.1f}" if "seconds" in figures else "not recorded"
    parameters = sum(p.numel() for p in prior.network.parameters())
    return [
        f"{old}: {added / 1e6:.2f} MB; packaged priors together {total:.2f} MB of at most "
        f"{small.MAX_MEGABYTES:g} MB",
        f"parameters: {parameters:,}, {prior.sample_rate} Hz",
        f"samples seen: {training.get('samples_seen', 'not recorded')}; minutes: {minutes}; "
        f"run {training.get('run', 'not recorded')}, git "
        f"{training.get('git_revision', 'not recorded')}",
        f"difference of outputs, relative to their RMS: {cost:.1e}",
    ]


@torch.no_grad()
def difference(prior: SpeechPrior | NoisePrior, rounded: SpeechPrior | NoisePrior) -> float:
    """RMS of the difference of two priors' outputs relative to the outputs' own, for white noise at
    the worst of six noise levels.
    """
    white = torch.randn(2, prior.sample_rate // 2, generator=torch.Generator().manual_seed(0))
    ratios = []
    for sigma in VALIDATION_SIGMAS:
        noisy, level = math.hypot(sigma, prior.sigma_data) * white, torch.full((2,), sigma)
        exact, close = prior(noisy, level), rounded(noisy, level)
        ratios.append(((close - exact).square().mean() / exact.square().mean()).sqrt())
    return float(torch.stack(ratios).max())


if __name__ == "__main__":
    run(main, reads_params=False)
