"""Train the speech prior or a noise prior on its shards, and publish its EMA weights.

Run `python -m pipelines.train_prior NAME`, NAME being `speech` or a noise corpus (`wham`, `dns`);
`--dry-run` shows what would be done. Reads data/shards/CORPUS, writes data/priors/NAME and
data/training/NAME/{history.csv,metrics.json}. Interrupted training goes on where it was when the
stage is run again: its state lies in $DAVSS_STORAGE/training/NAME-DIGEST. DAVSS_NUM_WORKERS sets
the number of Ray Train workers (4, or elastic: 1-4), WANDB_MODE and WANDB_API_KEY the tracking.
`--export DIR` writes the prior as it is by now, of a run that goes on or was interrupted.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from davss.diffusion.prior import COLOURED, NoisePrior, SpeechPrior, save_prior
from davss.errors import DavssError
from davss.storage import publish
from davss.training import checkpoint, ema, launch, tracking
from davss.training.job import TrainingJob
from davss.training.warm_start import warm_start
from pipelines import run, stage_parser
from pipelines.plan_training import add_flags, dry_run
from pipelines.training_job import make_job

log = logging.getLogger("davss.train_prior")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the stage."""
    parser = stage_parser("train_prior", __doc__)
    parser.add_argument("name", help="speech, or the noise corpus: wham, dns")
    add_flags(parser)
    text = "train nothing; write the EMA weights of its newest checkpoint to DIR, as a prior"
    parser.add_argument("--export", type=Path, metavar="DIR", help=text)
    text = "with --export: the checkpoint after so many clips (training.keep_checkpoints keeps it)"
    parser.add_argument("--samples", type=int, metavar="N", help=text)
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if arguments.dry_run:
        print(dry_run(arguments))
        return
    if arguments.samples is not None and arguments.export is None:
        raise DavssError("--samples: goes with --export; a run trains for training.total_samples")
    if arguments.export is not None and arguments.export.exists():
        raise DavssError(f"--export {arguments.export}: exists already; give another name")
    if arguments.gpus or arguments.profile:
        raise DavssError("--gpus, --profile: for --dry-run only; a run takes DAVSS_NUM_WORKERS")
    num_workers = launch.parse_workers(os.environ.get("DAVSS_NUM_WORKERS"))
    mode = "disabled" if arguments.export else tracking.choose_mode(os.environ)
    job = make_job(arguments.name, Path(arguments.params), mode)
    if arguments.export is not None:
        print(_export_now(job, arguments.export, arguments.samples))
        return
    if job.tracking.mode == "offline":
        log.warning("W&B: %s uploads the run", tracking.sync_command(job.state))
    export(job, _trained(job, num_workers))


def _trained(job: TrainingJob, num_workers: tuple[int, int] | None) -> dict[str, Any]:
    """The last checkpoint of the run, once it is complete."""
    job.pull_checkpoints()
    total, seen = job.config.training.total_samples, checkpoint.samples_seen(job.checkpoints)
    saved = checkpoint.load_newest(job.checkpoints) if seen >= total else None
    if saved is None or saved["samples_seen"] < total:  # or the newest is damaged
        if not seen:
            _tell_start(job)
        launch.launch(job, num_workers)
        saved = checkpoint.load_newest(job.checkpoints)
    assert saved is not None
    return saved


def _tell_start(job: TrainingJob) -> None:
    """Name the layers that a warm start leaves out, on the log; fails before anything starts, also
    where the network cannot be built.
    """
    prior, init_from = job.build_prior(), job.config.training.init_from
    if init_from is not None:
        for line in warm_start(prior, Path(init_from)):
            log.warning(line)


def export(job: TrainingJob, saved: dict[str, Any]) -> None:
    """Publish the EMA weights, the history of losses and the final figures of a finished run."""
    prior = _prior_of(job, saved)
    published = Path("data/priors") / job.name
    save_prior(prior, published)
    tracker = tracking.Tracker(job.tracking, job.state)
    tracker.log_prior(f"{job.name}-prior", published, prior.info.training)
    history = [{_column(key): value for key, value in row.items()} for row in saved["history"]]
    with publish(Path("data/training") / job.name) as folder:
        folder.mkdir()
        with (folder / "history.csv").open("w", newline="") as file:
            columns = dict.fromkeys(column for row in history for column in row)
            writer = csv.DictWriter(file, fieldnames=list(columns))  # not every row separates
            writer.writeheader()
            writer.writerows(history)
        (folder / "metrics.json").write_text(
            json.dumps(_metrics(saved, history[-1]), indent=2) + "\n"
        )
    tracker.finish()
    if job.mirror:
        job.mirror.push("wandb")


def _export_now(job: TrainingJob, out: Path, samples: int | None) -> str:
    """Write the prior of a checkpoint, the newest or that after so many samples."""
    job.pull_checkpoints()
    saved = checkpoint.load_newest(job.checkpoints, samples)
    if saved is None:
        kept = ", ".join(map(str, checkpoint.kept(job.checkpoints)))
        raise DavssError(
            f"--samples {samples}: not among the checkpoints of {job.name}, which are those after "
            f"{kept} clips; training.keep_checkpoints says how many are kept"
            if kept
            else f"{job.checkpoints}: no checkpoint; train {job.name} with these settings first"
        )
    save_prior(_prior_of(job, saved), out)
    return f"{out}: {job.name} after {saved['samples_seen']} clips"


def _prior_of(job: TrainingJob, saved: dict[str, Any]) -> SpeechPrior | NoisePrior:
    """The prior with the EMA weights of a checkpoint."""
    prior = job.build_prior()
    average = ema.Ema(prior, job.config.training.ema_decay)
    average.load_state_dict(saved["ema"])
    average.copy_to(prior)
    provenance = {"run": job.state.name, "samples_seen": saved["samples_seen"]}
    if job.config.training.foreign.coloured:
        provenance[COLOURED] = True
    prior.info = replace(prior.info, training=provenance | job.tracking.settings)
    return prior.eval()


def _metrics(saved: dict[str, Any], last: dict[str, float]) -> dict[str, float]:
    speed = saved["samples_seen"] / max(saved["seconds"], 1e-9)
    more = {"best_valid_loss": saved["best_validation"], "seconds": round(saved["seconds"], 1)}
    return {**last, **more, "samples_per_second": round(speed, 2)}


def _column(name: str) -> str:
    """History column of a W&B name: valid/loss → valid_loss, train/grad_norm → grad_norm."""
    column = name.replace("/", "_")
    return column.removeprefix("train_") if column != "train_loss" else column


if __name__ == "__main__":
    run(main)
