"""Train the speech prior or a noise prior on its shards, and publish its EMA weights.

Run `python -m pipelines.train_prior NAME`, NAME being `speech` or a noise corpus (`wham`, `dns`);
`--dry-run` shows what would be done. Reads data/shards/CORPUS, writes data/priors/NAME and
data/training/NAME/{history.csv,metrics.json}. Interrupted training goes on where it was when the
stage is run again: its state lies in $DAVSS_STORAGE/training/NAME-DIGEST. DAVSS_NUM_WORKERS sets
the number of Ray Train workers (4, or elastic: 1-4), WANDB_MODE and WANDB_API_KEY the tracking.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas

from davss import config
from davss.config import PriorConfig, ShardsConfig, TrainingConfig
from davss.diffusion import denoiser, loss, schedule
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior, save_prior
from davss.errors import DavssError
from davss.networks import film, layers, ncsnpp
from davss.networks.visual import BRAVEN, EIGENLIPS, load_visual_encoder
from davss.shards import contract, loader, order
from davss.shards.loader import training_loader, training_shards
from davss.shards.reader import ShardReader
from davss.storage import code_digests, publish, sha256, shard_store, storage_root
from davss.training import checkpoint, ema, launch, loop, tracking
from davss.training.job import TrainingJob
from davss.training.validation import load_clips
from pipelines import run

SPEECH, SPEECH_CORPUS = "speech", "voxceleb2"
# Other code makes another run, which starts anew instead of going on; dvc.yaml lists these files.
_CODE = (denoiser, loss, schedule, film, layers, ncsnpp, contract, loader, order, ema, loop)
_HOW = {"max_batch_per_worker", "loader_workers", "keep_checkpoints", "hang_factor", "hang_seconds"}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("name", help="speech, or the noise corpus: wham, dns")
    parser.add_argument(
        "--params", default="params.yaml", help="params file (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and stop")
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    workers = launch.parse_workers(os.environ.get("DAVSS_NUM_WORKERS"))
    resources = launch.plan_resources(workers)
    mode = "disabled" if arguments.dry_run else tracking.choose_mode(os.environ)
    job = make_job(arguments.name, Path(arguments.params), resources, mode)
    if arguments.dry_run:
        print(describe(job, resources))
        return
    saved = checkpoint.load_newest(job.checkpoints)
    if saved is None or saved["samples_seen"] < job.config.training.total_samples:
        launch.launch(job, resources)
        saved = checkpoint.load_newest(job.checkpoints)
    assert saved is not None
    export(job, saved)


def make_job(name: str, params: Path, resources: launch.Resources, mode: str) -> TrainingJob:
    """The job of prior `name`; every piece is checked before anything starts."""
    speech = name == SPEECH
    prior_config = config.load_section(
        params, "speech_prior" if speech else "noise_prior", PriorConfig
    )
    sample_rate = config.load_section(params, "shards", ShardsConfig).sample_rate
    seed = config.load_section(params, "seed", int)
    training, diffusion = prior_config.training, prior_config.diffusion
    loop.check_workers(training, resources.num_workers)
    corpus = SPEECH_CORPUS if speech else name
    manifests, shards_in = _manifests(corpus), shard_store()
    crop_samples = round(training.crop_seconds * sample_rate)
    shards = training_shards(
        manifests, shards_in, "train", crop_samples=crop_samples, sample_rate=sample_rate
    )
    audio_only = _audio_only_shards(training, crop_samples, sample_rate)
    reader = ShardReader(manifests, shards_in, "valid")
    encoder = _visual_encoder(manifests, reader) if speech else None
    settings = {
        "prior": name,
        "seed": seed,
        "sample_rate": sample_rate,
        **_without_the_how(config.to_dict(prior_config)),
        "data": _data_digests(manifests, encoder, training.audio_only_corpus),
        "code": config.digest(code_digests(_CODE)),
    }
    run_id = config.digest(settings)
    return TrainingJob(
        name=name,
        config=prior_config,
        seed=seed,
        sample_rate=sample_rate,
        state=storage_root().resolve() / "training" / f"{name}-{run_id}",
        build_prior=partial(_build_prior, prior_config, sample_rate, encoder),
        training_batches=partial(
            training_loader,
            shards,
            crop_samples=crop_samples,
            sample_rate=sample_rate,
            seed=seed,
            num_workers=training.loader_workers,
            shuffle_buffer=training.shuffle_buffer,
            gain_db=diffusion.gain_db,
            sigma_data=diffusion.sigma_data,
            audio_only=audio_only,
            audio_only_fraction=training.audio_only_fraction,
            cache=storage_root().resolve() / "cache",
        ),
        validation_clips=partial(
            load_clips,
            reader,
            count=training.validation_clips,
            crop_samples=crop_samples,
            sigma_data=diffusion.sigma_data,
            with_lips=speech,
        ),
        tracking=tracking.TrackingConfig(
            run_id=run_id,
            name=f"{name}-{run_id}",
            mode=mode,
            settings={**settings, "git_revision": tracking.git_revision(Path.cwd())},
        ),
    )


def _build_prior(
    prior_config: PriorConfig, sample_rate: int, encoder: Path | None
) -> SpeechPrior | NoisePrior:
    """An untrained prior; `encoder` is the file that names a speech prior's visual encoder."""
    info = PriorInfo(sample_rate, prior_config.network, prior_config.diffusion)
    if encoder is None:
        return NoisePrior(info)
    return SpeechPrior(info, load_visual_encoder(encoder.parent))


def describe(job: TrainingJob, resources: launch.Resources) -> str:
    """What a run would do, in lines."""
    training = job.config.training
    parameters = sum(p.numel() for p in job.build_prior().parameters())
    batch = training.global_batch_size
    saved = checkpoint.load_newest(job.checkpoints)
    kind = "GPU" if resources.use_gpu else "CPU"
    lines = {
        "prior": job.name,
        "parameters": f"{parameters:,}",
        "global batch": f"{batch} clips of {training.crop_seconds:g} s at {job.sample_rate} Hz",
        "workers": f"{resources.num_workers} on {kind}, {-(-batch // resources.num_workers)} clips "
        f"and {resources.threads} threads each",
        "steps": f"{-(-training.total_samples // batch):,} ({training.total_samples:,} samples)",
        "samples seen": f"{saved['samples_seen'] if saved else 0:,}",
        "state": str(job.state),
    }
    return "\n".join(f"{name + ':':<14} {value}" for name, value in lines.items())


def export(job: TrainingJob, saved: dict[str, Any]) -> None:
    """Publish the EMA weights, the history of losses and the final figures of a finished run."""
    prior = job.build_prior()
    average = ema.Ema(prior, job.config.training.ema_decay)
    average.load_state_dict(saved["ema"])
    average.copy_to(prior)
    provenance = {"run": job.state.name, "samples_seen": saved["samples_seen"]}
    prior.info = replace(prior.info, training=provenance | job.tracking.settings)
    save_prior(prior.eval(), Path("data/priors") / job.name)
    history = [{_column(key): value for key, value in row.items()} for row in saved["history"]]
    with publish(Path("data/training") / job.name) as folder:
        folder.mkdir()
        with (folder / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(history[-1]))
            writer.writeheader()
            writer.writerows(history)
        (folder / "metrics.json").write_text(
            json.dumps(_metrics(saved, history[-1]), indent=2) + "\n"
        )


def _metrics(saved: dict[str, Any], last: dict[str, float]) -> dict[str, float]:
    speed = saved["samples_seen"] / max(saved["seconds"], 1e-9)
    more = {"best_valid_loss": saved["best_validation"], "seconds": round(saved["seconds"], 1)}
    return {**last, **more, "samples_per_second": round(speed, 2)}


def _column(name: str) -> str:
    """History column of a W&B name: valid/loss → valid_loss, train/grad_norm → grad_norm."""
    column = name.replace("/", "_")
    return column.removeprefix("train_") if column != "train_loss" else column


def _manifests(corpus: str) -> Path:
    folder = Path("data/shards") / corpus
    for split in ("train", "valid"):
        for manifest in (folder / f"{split}.parquet", folder / f"{split}.clips.parquet"):
            if not manifest.is_file():
                raise DavssError(
                    f"{manifest}: no such manifest; make it with "
                    f"`python -m pipelines.shards {corpus}`"
                )
    return folder


def _audio_only_shards(
    training: TrainingConfig, crop_samples: int, sample_rate: int
) -> list[loader.Shard]:
    """The shards of clips without lips that are mixed in."""
    if not training.audio_only_fraction:
        return []
    if training.audio_only_corpus is None:
        raise DavssError(
            "training.audio_only_fraction: set training.audio_only_corpus too, or leave it at 0"
        )
    return training_shards(
        _manifests(training.audio_only_corpus),
        shard_store(),
        "train",
        crop_samples=crop_samples,
        sample_rate=sample_rate,
    )


def _without_the_how(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a run's result, but for rounding: others may change on the way."""
    training = {name: value for name, value in settings["training"].items() if name not in _HOW}
    return settings | {"training": training}


def _visual_encoder(manifests: Path, reader: ShardReader) -> Path:
    """The file that names the visual encoder, once its feature size is that of the shards."""
    path = manifests / (BRAVEN if (manifests / BRAVEN).is_file() else EIGENLIPS)
    if not path.is_file():
        raise DavssError(
            f"{path}: no such file; make it with `python -m pipelines.shards {SPEECH_CORPUS}`"
        )
    dim = load_visual_encoder(manifests).dim
    lips = reader[reader.clips.key.iloc[0]].lips
    found = None if lips is None else lips.shape[1]
    if found != dim:
        raise DavssError(
            f"{path}: gives {dim} features a frame but the shards hold {found}; run "
            f"`python -m pipelines.shards {SPEECH_CORPUS}` again"
        )
    return path.resolve()


def _data_digests(manifests: Path, encoder: Path | None, extra: str | None) -> dict[str, Any]:
    """What the training data are: sha256 of every shard and of the visual encoder."""
    digests: dict[str, Any] = {
        split: pandas.read_parquet(manifests / f"{split}.parquet")["sha256"].tolist()
        for split in ("train", "valid")
    }
    if extra is not None:
        extra_manifest = pandas.read_parquet(_manifests(extra) / "train.parquet")
        digests["audio_only"] = extra_manifest["sha256"].tolist()
    return digests | ({"visual_encoder": sha256(encoder)} if encoder else {})


if __name__ == "__main__":
    run(main)
