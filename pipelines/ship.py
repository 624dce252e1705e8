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
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from davss import small
from davss.diffusion.prior import NoisePrior, SpeechPrior, load_prior, save_prior
from davss.diffusion.public import source_digest
from davss.diffusion.rounding import RoundingCost, rounding_cost
from davss.errors import DavssError
from davss.networks.visual import BravenLips
from pipelines import run

MAX_LOSS = 0.01  # dB of denoising at any sigma: far below what a seed of training changes


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
        costs = rounding_cost(prior, load_prior(Path(folder) / name))
        check_cost(costs)
        added = small.size(Path(folder))
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
    return describe(prior, old, added, total, costs)


def check_cost(costs: Sequence[RoundingCost]) -> None:
    """Raise DavssError where rounding takes away more than `MAX_LOSS` (or leaves NaN)."""
    for cost in costs:
        if not cost.loss <= MAX_LOSS:
            raise DavssError(
                f"half precision costs {cost.loss:.3f} dB of denoising at sigma {cost.sigma:g}, "
                f"more than {MAX_LOSS:g}; give --float32"
            )


def describe(
    prior: SpeechPrior | NoisePrior,
    folder: Path,
    size: int,
    total: float,
    costs: Sequence[RoundingCost],
) -> list[str]:
    """What was shipped, in lines."""
    training = prior.info.training
    figures = training["shipped_from"]["figures"]
    minutes = f"{figures['seconds'] / 60:.1f}" if "seconds" in figures else "not recorded"
    parameters = sum(p.numel() for p in prior.network.parameters())
    return [
        f"{folder}: {size / 1e6:.2f} MB; packaged priors together {total:.2f} MB of at most "
        f"{small.MAX_MEGABYTES:g} MB",
        f"parameters: {parameters:,}, {prior.sample_rate} Hz",
        f"samples seen: {training.get('samples_seen', 'not recorded')}; minutes: {minutes}; "
        f"run {training.get('run', 'not recorded')}, git "
        f"{training.get('git_revision', 'not recorded')}",
        "largest output difference, relative to the output's RMS: "
        f"{max(cost.difference for cost in costs):.2e}",
        *(
            f"sigma {cost.sigma:<6g} denoising of random input {cost.gain:7.3f} dB, lost "
            f"{cost.loss:+.5f} dB"
            for cost in costs
        ),
    ]


if __name__ == "__main__":
    run(main, reads_params=False)
