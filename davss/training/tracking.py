"""Weights & Biases tracking of a run: losses, audio, spectrograms, settings; all that needs wandb.

Tracking is a convenience: whatever goes wrong in it is one warning, and the run goes on without. It
has a thread of its own, so that a slow or silent server costs no time.
Global rank 0 tracks; the other ranks, and runs with WANDB_MODE=disabled, get a tracker that does
nothing.
"""

from __future__ import annotations

import logging
import netrc
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

PROJECT = "davss"
STEP = "train/samples_seen"
QUEUE_SIZE = 2000  # figures and panels that wait for W&B
PATIENCE = 60.0  # seconds that the end of a run waits for W&B
INIT_TIMEOUT = 30.0  # seconds that the start of a run waits, in its thread


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

    def log_audio(
        self,
        samples_seen: int,
        signals: dict[str, Tensor],
        sample_rate: int,
        panel: str = "examples",
    ) -> None:
        """Do nothing."""

    def log_prior(self, name: str, folder: Path, lineage: dict[str, Any]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class Tracker:
    """A W&B run with its own step axis, `train/samples_seen`; the same id goes on with the run.

    All of W&B happens in a thread of its own, its start too: calls only put work in a queue, and
    what does not fit is dropped. `finish` waits `patience` seconds for the rest and no longer.
    """

    def __init__(
        self,
        config: TrackingConfig,
        folder: Path,
        *,
        queue_size: int = QUEUE_SIZE,
        patience: float = PATIENCE,
    ) -> None:
        self.patience, self.dropped = patience, 0
        self._queue: queue.Queue[Callable[[Any], Any]] = queue.Queue(queue_size)
        self._ended = threading.Event()
        # a daemon: a W&B that hangs must not keep the process
        self._thread = threading.Thread(target=self._work, args=(config, folder), daemon=True)
        self._thread.start()

    def log(self, samples_seen: int, metrics: dict[str, float]) -> None:
        """Log figures by their names (`train/loss`, `valid/loss`, …)."""
        self._put(lambda run: run.log({STEP: samples_seen, **metrics}))

    def log_audio(
        self,
        samples_seen: int,
        signals: dict[str, Tensor],
        sample_rate: int,
        panel: str = "examples",
    ) -> None:
        """Log signals (T,) as players `PANEL/NAME`, and one picture of their spectrograms above
        each other.
        """
        self._put(lambda run: run.log({STEP: samples_seen, **players(signals, sample_rate, panel)}))

    def log_prior(self, name: str, folder: Path, lineage: dict[str, Any]) -> None:
        """Log the directory of a prior as an artifact by reference: nothing is uploaded but the
        names and checksums of its files, and where it comes from.
        """

        def send(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(name, type="model", metadata=lineage)
            artifact.add_reference(folder.resolve().as_uri())
            run.log_artifact(artifact)

        self._put(send)

    def finish(self) -> None:
        """Write what is left and close the run, if W&B does so in time."""
        self._ended.set()
        self._thread.join(self.patience)
        if self._thread.is_alive():
            log.warning("W&B is slow: its last figures are given up after %g s", self.patience)

    def _put(self, action: Callable[[Any], Any]) -> None:
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            self.dropped += 1
            if self.dropped == 1:
                log.warning("W&B is slow: figures are dropped, training goes on")

    def _work(self, config: TrackingConfig, folder: Path) -> None:
        """The thread: start the run, do what is queued; on any error warn once and do no more."""
        run = _start_run(config, folder)
        while not (self._ended.is_set() and self._queue.empty()):
            try:
                action = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            run = _attempt(run, action)
        _attempt(run, lambda run: run.finish())


def _attempt(run: Any, action: Callable[[Any], Any]) -> Any:
    """The run after `action`: None, with a warning, once something failed."""
    if run is None:
        return None
    try:
        action(run)
    except Exception as error:
        log.warning("W&B stopped (%s); training goes on untracked", _first_line(error))
        return None
    return run


def _start_run(config: TrackingConfig, folder: Path) -> Any:
    """The W&B run, offline if W&B cannot be reached; None, with a warning, if that fails too."""
    try:
        return _open_run(config, folder)
    except Exception as error:
        log.warning("W&B does not start (%s)", _first_line(error))
    if config.mode == "offline":
        return None
    log.warning("W&B: this run is kept offline (`wandb sync` uploads it)")
    _forget_failed_start()
    return _start_run(replace(config, mode="offline"), folder)


def _forget_failed_start() -> None:
    """End W&B's service process, which still holds the id of the run that did not start."""
    try:
        import wandb

        wandb.teardown(exit_code=1)
    except Exception as error:
        log.debug("W&B: %s", _first_line(error))


def _open_run(config: TrackingConfig, folder: Path) -> Any:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(
        console="off", silent=True, init_timeout=INIT_TIMEOUT, x_disable_meta=False
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=config.run_id,
        name=config.name,
        resume="allow",
        mode=config.mode,  # type: ignore[arg-type]
        dir=str(folder),
        config=config.settings,
        settings=quiet,
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return run


def start(config: TrackingConfig, folder: Path, rank: int) -> Tracker | NullTracker:
    """The tracker of this rank, its files under `folder`."""
    if rank != 0 or config.mode == "disabled":
        return NullTracker()
    return Tracker(config, folder)


def players(signals: dict[str, Tensor], sample_rate: int, panel: str) -> dict[str, Any]:
    """Signals (T,) for W&B: as sounds, each at its own peak, and as spectrograms."""
    import wandb

    shown: dict[str, Any] = {}
    for name, signal in signals.items():
        audio = (signal / signal.abs().max().clamp_min(1e-9)).numpy()
        shown[f"{panel}/{name}"] = wandb.Audio(audio, sample_rate=sample_rate)
    picture = wandb.Image(spectrograms(signals), caption=", ".join(signals))
    return {**shown, f"{panel}/spectrograms": picture}


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
