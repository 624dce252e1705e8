"""Weights & Biases tracking of a run: losses, audio, spectrograms, settings; all that needs wandb.

Tracking is a convenience: whatever goes wrong in it is one warning, and the run goes on without.
W&B sends from a process of its own: a silent server costs no step, only INIT_TIMEOUT at the start
of a run and FINISH_TIMEOUT at its end.
"""

from __future__ import annotations

import configparser
import logging
import netrc
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor

from davss.errors import DavssError

log = logging.getLogger(__name__)

PROJECT = "davss"
STEP = "train/samples_seen"
INIT_TIMEOUT = 20.0  # seconds that the start of a run waits for an answer
FINISH_TIMEOUT = 60.0  # seconds that the end of a run waits for what is not yet sent
MODES = ("online", "offline", "disabled", "shared")
OLD_MODES = {"run": "online", "dryrun": "offline"}
NAMES_TRIED = 4  # of a run that was deleted on the server, which takes no name twice


@dataclass(frozen=True)
class TrackingConfig:
    """How a run is tracked: `mode` online, offline or disabled; `settings` become its config."""

    run_id: str = ""
    name: str = ""
    mode: str = "disabled"
    settings: dict[str, Any] = field(default_factory=dict)


def choose_mode(environment: Mapping[str, str]) -> str:
    """W&B mode: WANDB_MODE where set, online with a key for its server, otherwise offline (which is
    logged). Raises DavssError for a mode that W&B does not know.
    """
    if environment.get("WANDB_DISABLED", "").lower() in {"1", "true", "yes"}:
        return "disabled"
    if mode := environment.get("WANDB_MODE"):
        if (mode := OLD_MODES.get(mode, mode)) not in MODES:
            raise DavssError(f"WANDB_MODE={mode}: give online, offline or disabled")
        return mode
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    host = _host(environment)
    if _has_netrc_key(environment, host):
        return "online"
    log.warning("W&B: no WANDB_MODE and no key for %s: the run is kept offline", host)
    return "offline"


def _host(environment: Mapping[str, str]) -> str:
    """Where runs go: WANDB_BASE_URL, what `wandb login --host` wrote down, or W&B's own server."""
    folder = environment.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    written = configparser.ConfigParser(interpolation=None)
    try:
        written.read([os.path.expanduser(f"{folder}/settings"), "wandb/settings"])
    except (OSError, configparser.Error) as error:
        log.debug("W&B: %s", error)
    fallback = written.get("default", "base_url", fallback="https://api.wandb.ai")
    url = environment.get("WANDB_BASE_URL") or fallback
    return urlparse(url).hostname or url


def _has_netrc_key(environment: Mapping[str, str], host: str) -> bool:
    path = os.path.expanduser(environment.get("NETRC") or "~/.netrc")
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def git_revision(folder: Path) -> str:
    """Commit of the working tree `folder`, with `-dirty` after changes; `unknown` outside git.

    The tree may be somebody else's, as where a container mounts it: its code runs already.
    """
    command = ["git", "-c", "safe.directory=*", "-C", str(folder)]
    command += ["describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()


class Tracker:
    """A W&B run with its own step axis, `train/samples_seen`; the same id goes on with the run.

    Does nothing on ranks other than 0, and where tracking is disabled.
    """

    def __init__(self, config: TrackingConfig, folder: Path, rank: int = 0) -> None:
        tracked = rank == 0 and config.mode != "disabled"
        self._run = _start_run(config, folder) if tracked else None

    def log(self, samples_seen: int, metrics: dict[str, float]) -> None:
        """Log figures by their names (`train/loss`, `valid/loss`, …)."""
        self._attempt(lambda run: run.log({STEP: samples_seen, **metrics}))

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
        self._attempt(
            lambda run: run.log({STEP: samples_seen, **players(signals, sample_rate, panel)})
        )

    def log_prior(self, name: str, folder: Path, lineage: dict[str, Any]) -> None:
        """Log the directory of a prior as an artifact by reference: nothing is uploaded but the
        names and checksums of its files, and where it comes from.
        """

        def send(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(name, type="model", metadata=lineage)
            artifact.add_reference(folder.resolve().as_uri())
            run.log_artifact(artifact)

        self._attempt(send)

    def finish(self) -> None:
        """Send what is left and close the run, if W&B takes it in time."""
        self._attempt(lambda run: run.finish())

    def _attempt(self, action: Callable[[Any], Any]) -> None:
        """Do it; with a warning, the last thing that is done once something fails."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            log.warning("W&B stopped (%s); the run goes on untracked", _first_line(error))
            self._run = None


def _start_run(config: TrackingConfig, folder: Path) -> Any:
    """The W&B run, offline if W&B cannot be reached; None, with a warning, if that fails too."""
    error: Exception | None = None
    for number in range(1, NAMES_TRIED + 1):
        name = config.run_id if number == 1 else f"{config.run_id}-{number}"
        try:
            return _open_run(replace(config, run_id=name), folder)
        except Exception as failed:
            error = failed
            _forget_failed_start()
            if "deleted" not in str(error):
                break
            log.warning("W&B: run %s was deleted on the server; it begins anew", name)
    log.warning("W&B does not start (%s)", _first_line(error))
    if config.mode == "offline":
        return None
    log.warning("W&B: this run is kept offline; %s uploads it", sync_command(folder))
    return _start_run(replace(config, mode="offline"), folder)


def sync_command(folder: Path) -> str:
    """What uploads the offline runs below `folder`."""
    return f"`wandb sync {folder}/wandb/offline-run-*`"


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
    settings = wandb.Settings(
        console="off", silent=True, init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        id=config.run_id,
        name=config.name,
        resume="allow",
        mode=config.mode,  # type: ignore[arg-type]
        dir=str(folder),
        config=config.settings,
        settings=settings,
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return run


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


def _first_line(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
