"""Weights & Biases tracking of a run: losses, audio, spectrograms, settings; all that needs wandb.

Tracking is a convenience: whatever goes wrong in it is one warning, and the run goes on without.
Global rank 0 tracks; the other ranks, and runs with WANDB_MODE=disabled, get a tracker that does
nothing.
"""

from __future__ import annotations

import logging
import netrc
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

PROJECT = "davss"
STEP = "train/samples_seen"


@dataclass(frozen=True)
class TrackingConfig:
    """How a run is tracked: `mode` online, offline or disabled; `settings` become its config."""

    run_id: str = ""
    name: str = ""
    mode: str = "disabled"
    settings: dict[str, Any] = field(default_factory=dict)


def choose_mode(environment: Mapping[str, str]) -> str:
    """W&B mode: WANDB_MODE where set, online with a key, otherwise offline (which is logged)."""
    if environment.get("WANDB_DISABLED", "").lower() in {"1", "true", "yes"}:
        return "disabled"
    if mode := environment.get("WANDB_MODE"):
        return mode
    if environment.get("WANDB_API_KEY") or _has_netrc_key(environment):
        return "online"
    log.warning("W&B: no key and no WANDB_MODE: runs are kept offline (`wandb sync` uploads them)")
    return "offline"


def _has_netrc_key(environment: Mapping[str, str]) -> bool:
    path = Path(environment.get("NETRC", Path.home() / ".netrc"))
    try:
        return netrc.netrc(path).authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def git_revision(folder: Path) -> str:
    """Commit of the working tree `folder`, with `-dirty` after changes; `unknown` outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()


class NullTracker:
    """The tracker of runs and ranks that are not tracked."""

    def log(self, samples_seen: int, metrics: dict[str, float]) -> None:
        """Do nothing."""

    def log_audio(self, samples_seen: int, signals: dict[str, Tensor], sample_rate: int) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class Tracker:
    """A W&B run with its own step axis, `train/samples_seen`; the same id goes on with the run."""

    def __init__(self, config: TrackingConfig, folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(console="off", silent=True, init_timeout=30, x_disable_meta=False)
        self._wandb = wandb
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=config.run_id,
            name=config.name,
            resume="allow",
            mode=config.mode,  # type: ignore[arg-type]
            dir=str(folder),
            config=config.settings,
            settings=quiet,
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, samples_seen: int, metrics: dict[str, float]) -> None:
        """Log figures by their names (`train/loss`, `valid/loss`, …)."""
        self._guard(lambda run: run.log({STEP: samples_seen, **metrics}))

    def log_audio(self, samples_seen: int, signals: dict[str, Tensor], sample_rate: int) -> None:
        """Log signals (T,) as players, and one picture of their spectrograms above each other."""

        def send(run: Any) -> None:
            panels: dict[str, Any] = {STEP: samples_seen}
            for name, signal in signals.items():
                audio = (signal / signal.abs().max().clamp_min(1e-9)).numpy()
                panels[f"examples/{name}"] = self._wandb.Audio(audio, sample_rate=sample_rate)
            picture = self._wandb.Image(spectrograms(signals), caption=", ".join(signals))
            run.log({**panels, "examples/spectrograms": picture})

        self._guard(send)

    def finish(self) -> None:
        """Write what is left and close the run."""
        self._guard(lambda run: run.finish())

    def _guard(self, action: Callable[[Any], Any]) -> None:
        """Do `action` with the run; on any error warn once and track no more."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            log.warning("W&B stopped (%s); training goes on untracked", _first_line(error))


def start(config: TrackingConfig, folder: Path, rank: int) -> Tracker | NullTracker:
    """The tracker of this rank, its files under `folder`; offline if W&B cannot be reached."""
    if rank != 0 or config.mode == "disabled":
        return NullTracker()
    try:
        return Tracker(config, folder)
    except Exception as error:
        log.warning("W&B does not start (%s)", _first_line(error))
    if config.mode == "offline":
        return NullTracker()
    offline = TrackingConfig(config.run_id, config.name, "offline", config.settings)
    return start(offline, folder, rank)


def spectrograms(signals: dict[str, Tensor]) -> np.ndarray:
    """Log spectrograms of signals (T,), stacked into one picture: uint8 (height, width, 3)."""
    from matplotlib import colormaps

    rows = []
    for signal in signals.values():
        window = torch.hann_window(512)
        spectrum = torch.stft(signal, 512, 128, window=window, return_complex=True)
        level = 20 * torch.log10(spectrum.abs().clamp_min(1e-5)).flip(0)
        top = float(level.max())
        rows.append(((level - (top - 80)) / 80).clamp(0, 1))
        rows.append(torch.ones(4, level.shape[1]))
    colours = colormaps["magma"](torch.cat(rows[:-1]).numpy())[..., :3]
    return (255 * colours).astype(np.uint8)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
