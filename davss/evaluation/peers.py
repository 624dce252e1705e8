"""Supervised enhancers of other people on the mixtures of one speaker (benchmarks/peers.py).

They live in an environment of their own and know wavs alone: the mixtures are written for them,
and what they make of them is scored like any other estimate.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from davss.config import SamplerConfig, digest
from davss.errors import DavssError
from davss.evaluation.experiments import Arm, Trial
from davss.evaluation.metrics import si_sdr
from davss.evaluation.mixtures import Mixture
from davss.evaluation.trials import Job, Worker
from davss.storage import publish

NOTHING = {"evaluations": 0, "seconds": 0.0, "residual_db": None, "error": None}


def run_peers(
    trials: Sequence[Trial], job: Job, folder: Path, python: Path, script: Path
) -> tuple[list[Trial], list[dict[str, Any]]]:
    """Trials and results of every installed peer on the mixtures of one speaker among `trials`;
    wavs are kept in `folder`. DavssError when the peers' program fails.
    """
    rows = {trial.row["key"]: trial.row for trial in trials if trial.row["num_speakers"] == 1}
    render = Worker(job).render
    mixtures = {_name(row): render(row) for row in rows.values()}
    for name, mixture in mixtures.items():
        path = folder / "noisy" / f"{name}.wav"
        if not path.is_file():
            with publish(path) as temporary:
                audio, rate = mixture.mixture, mixture.sample_rate
                soundfile.write(temporary, audio, rate, subtype="FLOAT", format="WAV")
    command = [str(python), str(script), str(folder / "noisy"), str(folder)]
    done = subprocess.run(command, stdout=sys.stderr)
    if done.returncode:
        raise DavssError(f"{python}: benchmarks/peers.py failed; install the extra 'peers' there")
    found, results = [], []
    for peer in sorted(path.name for path in folder.iterdir() if path.name != "noisy"):
        for row in rows.values():
            # What they are given belongs to the figure: without their upper band some are worse.
            arm = Arm(f"{peer}, given {row['sample_rate'] / 1000:g} kHz", peer, SamplerConfig())
            found.append(Trial(arm, row))
            results.append(_score(folder / peer / f"{_name(row)}.wav", mixtures[_name(row)]))
    return found, results


def _name(row: dict[str, Any]) -> str:
    return f"{row['key']}-{digest(row)}"


def _score(path: Path, mixture: Mixture) -> dict[str, Any]:
    audio, rate = soundfile.read(path, dtype="float64")
    if rate != mixture.sample_rate or audio.shape != mixture.mixture.shape:
        raise DavssError(f"{path}: not of the mixture's rate and length; remove its folder")
    clean = torch.from_numpy(mixture.speech[0].astype(np.float64))
    after, before = (
        si_sdr(torch.from_numpy(signal), clean).item()
        for signal in (audio, mixture.mixture.astype(np.float64))
    )
    return {"key": mixture.key, "si_sdr": [[after]], "si_sdr_mixture": [before], **NOTHING}
