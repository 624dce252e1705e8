"""People whom no prior has heard, in noise: which noise model separates them best?

    python -m benchmarks.strangers SPEECH NOISE --out strangers.csv [--noise-models gaussian nmf …]

`strangers.csv` beside this file lists the mixtures, 2.8 s each: 30 speakers of LibriSpeech's
train-clean-100 that are in no training of the packaged priors, in real noise of which training had
heard the recording (another stretch of it), the scene (other recordings), or nothing.
`strangers_valid.csv` is such a list of validation material, to choose settings on. SPEECH and
NOISE are folders in which the files of the list lie. Every noise model has the same speech prior
and sampler, unless a preset's or sampler's name and `:` stand before it, or `+` and settings behind
it: `udiffse:none`, `gaussian+shares=measured`. With `--peers` supervised enhancers
(`davss/evaluation/peers.py`) are in the table as well. With `--damage opus:8` every recording is
damaged so (`davss/evaluation/damage.py` lists all).
Prints means with 95 % intervals, and the paired differences from the first model.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas
import torch
import yaml
from tqdm import tqdm

from davss import PRESETS, Separator, load_prior
from davss.config import SAMPLERS, NoiseModel
from davss.errors import DavssError
from davss.evaluation import external
from davss.evaluation.damage import damaged_sound, of_picture
from davss.evaluation.metrics import si_sdr
from davss.evaluation.statistics import Interval, difference, interval
from davss.media.audio import high_pass, read_audio

RATE, SECONDS = 16_000, 2.8
HIGH_PASS = 80.0  # Hz: two thirds of the power of some recordings of voices is rumble
LIST = Path(__file__).with_suffix(".csv")
HEARD = ("recording", "scene", "nothing")


@cache
def recording(path: Path) -> np.ndarray:
    """All of a recording (T,), without offset."""
    audio, _ = read_audio(path, RATE)
    return audio - audio.mean()


def stretch(folder: Path, name: str, start: int) -> torch.Tensor:
    """The part (T,) of a recording that the list asks for."""
    path = next(iter(sorted(folder.rglob(name))), None)
    if path is None:
        sys.exit(f"{folder}: holds no {name}, of which the list has a stretch")
    cut = torch.from_numpy(recording(path)[start : start + round(SECONDS * RATE)].copy()).float()
    return cut


def render(
    row: Any, speech: Path, noise: Path, snr_db: float, damage: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """Voices (K, T), equally loud, and the mixture (T,) of a damaged recording."""
    pairs = [(row.speech_1, row.start_1), (row.speech_2, row.start_2)][: row.num_speakers]
    voices = torch.stack([voice(stretch(speech, name, int(start))) for name, start in pairs])
    level = voices.sum(dim=0).std() * 10 ** (-snr_db / 20)
    sound = stretch(noise, row.noise, row.start)
    sound = level * (sound - sound.mean()) / sound.std()
    rng = np.random.default_rng(row.item)
    mixture, heard = damaged_sound(damage, voices.numpy(), sound.numpy(), RATE, rng)
    return torch.from_numpy(heard), torch.from_numpy(mixture)


def voice(cut: torch.Tensor) -> torch.Tensor:
    """A voice (T,) without rumble, at unit level."""
    clear = torch.from_numpy(high_pass(cut.numpy(), HIGH_PASS, RATE))
    return clear / clear.std()


def separator(text: str, speech_prior: str, preset: str) -> Separator:
    """NAME or SAMPLER:NAME+setting=value,setting=value."""
    model, _, changes = text.partition("+")
    other, _, name = model.rpartition(":")
    known = PRESETS | {sampler: cls() for sampler, cls in SAMPLERS.items()}
    if (other or preset) not in known:
        sys.exit(f"{text}: no sampler {other}; one of {', '.join(known)}")
    settings = dict(change.split("=") for change in changes.split(",") if change)
    sampler = replace(known[other or preset], **{k: yaml.safe_load(v) for k, v in settings.items()})
    noise: Any = name if name in get_args(NoiseModel) else load_prior(name)
    prior: Any = load_prior(speech_prior)
    return Separator(prior, noise, sampler, device="cpu")


def scores(
    separate: Separator | external.Peer, voices: torch.Tensor, mixture: torch.Tensor, key: str
) -> tuple[float, float]:
    """Mean SI-SDR over the speakers, in the better order, and the seconds it took."""
    began = time.process_time()
    found = separate(mixture[None], num_speakers=len(voices), sample_rate=RATE, keys=[key])
    # an enhancer works in a process of its own
    seconds = math.nan if isinstance(separate, external.Peer) else time.process_time() - began
    orders = [found.speech[0], found.speech[0].flip(0)]
    return max(si_sdr(order, voices).mean().item() for order in orders), seconds


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every mixture and model, the mixture itself among them."""
    mixtures = pandas.read_csv(arguments.list, dtype={"speech_1": str, "speech_2": str})
    mixtures = mixtures[mixtures.noise_heard.isin(arguments.heard)]
    mixtures = mixtures[mixtures.num_speakers.isin(arguments.num_speakers)]
    mixtures = mixtures[mixtures["item"] < arguments.mixtures]
    models: dict[str, Any] = {
        text: separator(text, arguments.speech_prior, arguments.preset)
        for text in arguments.noise_models
    }
    if arguments.peers:
        found = external.installed_peers(arguments.peers)
        models |= {name: external.Peer(name, arguments.peers) for name in found}
    for snr_db in arguments.snr_db:
        for row in tqdm(list(mixtures.itertuples()), desc=f"{snr_db:g} dB", unit="mixture"):
            voices, mixture = render(
                row, arguments.speech, arguments.noise, snr_db, arguments.damage
            )
            place = {"noise_heard": row.noise_heard, "num_speakers": row.num_speakers}
            place |= {"snr_db": snr_db, "item": row.item, "scene": row.scene}
            plain = si_sdr(mixture.expand_as(voices), voices).mean().item()
            yield place | {"model": "mixture", "si_sdr": plain, "seconds": 0.0}
            for text, separate in models.items():
                value, seconds = scores(separate, voices, mixture, f"{row.noise_heard}-{row.item}")
                yield place | {"model": text, "si_sdr": value, "seconds": seconds}


def plus_minus(found: Interval) -> str:
    """Mean and half of the 95 % interval."""
    return f"{found.mean:.2f} ± {found.half:.2f}".replace("-", "−")


def table(rows: pandas.DataFrame, first: str) -> str:
    """Markdown: cells by models."""
    lines = ["| heard | speakers | SNR | model | SI-SDR | minus the first | s |", "|---" * 7 + "|"]
    for cell, of_cell in rows.groupby(["noise_heard", "num_speakers", "snr_db"], sort=False):
        wide = of_cell.pivot(index="item", columns="model", values="si_sdr")
        seconds = of_cell.groupby("model").seconds.mean()
        for model in of_cell.model.unique():
            is_first = model in (first, "mixture")
            against = "" if is_first else plus_minus(difference(wide[model], wide[first]))
            cells = [
                *cell,
                model,
                plus_minus(interval(wide[model])),
                against,
                f"{seconds[model]:.1f}".replace("nan", ""),
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Separate, write a row for every mixture, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("speech", type=Path, help="folder with the speech of the list")
    add("noise", type=Path, help="folder with the noise of the list")
    add("--out", type=Path, required=True, metavar="CSV", help="a row for every mixture and model")
    add("--list", type=Path, default=LIST, metavar="CSV")
    add("--speech-prior", default="small-speech")
    add("--preset", default="fast", choices=sorted(PRESETS))
    add("--noise-models", nargs="+", default=["gaussian", "nmf"])
    add("--heard", nargs="+", default=HEARD, choices=HEARD, help="what training knew of the noise")
    add("--num-speakers", nargs="+", type=int, default=[1])
    add("--snr-db", nargs="+", type=float, default=[0.0, 5.0])
    add("--damage", default="", metavar="KIND:VALUE", help="of the recordings, such as opus:8")
    add("--peers", type=Path, metavar="PYTHON", help="of the environment of supervised enhancers")
    add("--mixtures", type=int, default=60, help="of each cell, from the top of the list")
    arguments = parser.parse_args(argv)
    try:
        if of_picture(arguments.damage):
            parser.error(f"--damage {arguments.damage}: of the picture; nobody is seen here")
    except DavssError as error:
        parser.error(f"--damage: {error}")
    rows = pandas.DataFrame(measure(arguments))
    rows.to_csv(arguments.out, index=False, float_format="%.3f")
    print(table(rows, arguments.noise_models[0]))


if __name__ == "__main__":
    main()
