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
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from davss import config
from davss.config import AugmentConfig, PriorConfig, ShardsConfig, TrainingConfig
from davss.diffusion import denoiser, loss, schedule
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior, load_prior, save_prior
from davss.diffusion.public import source_digest
from davss.errors import DavssError
from davss.networks import film, layers, ncsnpp
from davss.networks.eigenlips import Eigenlips
from davss.networks.visual import BRAVEN, EIGENLIPS, BravenLips, load_visual_encoder
from davss.profiling.forecast import ASSUMED_TFLOPS
from davss.shards import augment, contract, loader, order
from davss.shards.loader import training_loader, training_shards
from davss.shards.reader import ShardReader
from davss.storage import code_digests, publish, sha256, shard_store, storage_root
from davss.training import checkpoint, ema, launch, loop, tracking
from davss.training.forecast import describe_forecast, forecast_training
from davss.training.job import TrainingJob
from davss.training.separation import ValidationMixtures, mix_noises, mix_voices
from davss.training.validation import ValidationClips, load_clips
from davss.training.warm_start import warm_start
from pipelines import run
from pipelines.compose import compose

log = logging.getLogger("davss.train_prior")

SPEECH, SPEECH_CORPUS = "speech", "voxceleb2"
# Other code makes another run, which starts anew instead of going on; dvc.yaml lists these files.
_DENOISER = (denoiser, loss, schedule, film, layers, ncsnpp)
_CODE = (*_DENOISER, augment, contract, loader, order, ema, loop)
# Settings that change no weight, but for rounding. What `init_from` names is among the data.
_HOW = {
    *("max_batch_per_worker", "loader_workers", "keep_checkpoints", "hang_factor", "hang_seconds"),
    *("separate_every", "validation_mixtures", "validation_sampler_steps"),
    *("validation_speech_prior", "init_from"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("name", help="speech, or the noise corpus: wham, dns")
    parser.add_argument(
        "--params", default="params.yaml", help="params file (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and stop")
    planned = parser.add_argument_group("what a dry run plans for")
    planned.add_argument("--gpus", type=int, metavar="N", help="workers with a GPU each")
    planned.add_argument("--profile", help="demo or paper, in place of the params file")
    planned.add_argument(
        "--gpu-tflops",
        type=float,
        default=ASSUMED_TFLOPS,
        help="TFLOP/s that a GPU is assumed to sustain (default: %(default)g)",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if arguments.dry_run:
        print(dry_run(arguments))
        return
    if arguments.gpus or arguments.profile:
        raise DavssError("--gpus, --profile: for --dry-run only; a run takes DAVSS_NUM_WORKERS")
    resources = launch.plan_resources(launch.parse_workers(os.environ.get("DAVSS_NUM_WORKERS")))
    mode = tracking.choose_mode(os.environ)
    job = make_job(arguments.name, Path(arguments.params), resources, mode)
    saved = checkpoint.load_newest(job.checkpoints)
    if saved is None:
        _tell_start(job)
    if saved is None or saved["samples_seen"] < job.config.training.total_samples:
        launch.launch(job, resources)
        saved = checkpoint.load_newest(job.checkpoints)
    assert saved is not None
    export(job, saved)


def make_job(name: str, params: Path, resources: launch.Resources, mode: str) -> TrainingJob:
    """The job of prior `name`; every piece is checked before anything starts."""
    speech = name == SPEECH
    prior_config = config.load_section(params, _section(name), PriorConfig)
    varied = replace(prior_config.training.augment, colour_db=0.0)
    if speech and varied != AugmentConfig():
        raise DavssError(
            "speech_prior.training.augment: sums, speed and backwards are for noise, they would "
            "part a voice from its lips; leave colour_db alone"
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
    init_from = Path(training.init_from).resolve() if training.init_from else None
    settings = {
        "prior": name,
        "seed": seed,
        "sample_rate": sample_rate,
        **_without_the_how(config.to_dict(prior_config)),
        "data": _data_digests(manifests, encoder, training.audio_only_corpus),
        "code": config.digest(code_digests(_CODE)),
        **_lineage_of_start(init_from),
    }
    run_id = config.digest(settings)
    return TrainingJob(
        name=name,
        config=prior_config,
        seed=seed,
        sample_rate=sample_rate,
        state=storage_root().resolve() / "training" / f"{name}-{run_id}",
        build_prior=partial(_build_prior, prior_config, sample_rate, encoder, init_from),
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
            augment=training.augment,
        ),
        validation_clips=partial(
            load_clips,
            reader,
            count=training.validation_clips,
            crop_samples=crop_samples,
            sigma_data=diffusion.sigma_data,
            with_lips=speech,
        ),
        validation_mixtures=_validation_mixtures(prior_config, sample_rate, speech),
        tracking=tracking.TrackingConfig(
            run_id=run_id,
            name=f"{name}-{run_id}",
            mode=mode,
            settings={**settings, "git_revision": tracking.git_revision(Path.cwd())},
        ),
    )


def _validation_mixtures(
    prior_config: PriorConfig, sample_rate: int, speech: bool
) -> Callable[[ValidationClips], ValidationMixtures] | None:
    """What makes the mixtures that the prior separates on its way; None where it cannot."""
    training = prior_config.training
    count = training.validation_mixtures
    if not training.separate_every:
        return None
    if speech:
        return partial(mix_voices, count=count)
    if training.validation_speech_prior is None:
        return None
    path = Path(training.validation_speech_prior).resolve()
    if not isinstance(prior := load_prior(path), SpeechPrior):
        raise DavssError(f"training.validation_speech_prior: {path} is a noise prior; give speech")
    if prior.sample_rate != sample_rate:
        raise DavssError(
            f"training.validation_speech_prior: {path} works at {prior.sample_rate} Hz, this prior "
            f"at {sample_rate} Hz; give one of the same rate"
        )
    reader = ShardReader(_manifests(SPEECH_CORPUS), shard_store(), "valid")
    voices = load_clips(
        reader,
        count=count,
        crop_samples=round(training.crop_seconds * sample_rate),
        sigma_data=prior_config.diffusion.sigma_data,
        with_lips=True,
    )
    return partial(_mix_noises, voices, count, path)


def _mix_noises(
    voices: ValidationClips, count: int, speech_prior: Path, noises: ValidationClips
) -> ValidationMixtures:
    return mix_noises(voices, noises, count, partial(_load_speech_prior, speech_prior))


def _load_speech_prior(path: Path) -> SpeechPrior:
    prior = load_prior(path)
    assert isinstance(prior, SpeechPrior)
    return prior


def _build_prior(
    prior_config: PriorConfig, sample_rate: int, encoder: Path | None, init_from: Path | None
) -> SpeechPrior | NoisePrior:
    """A prior to be trained, with weights of `init_from` where given; `encoder` is the file that
    names a speech prior's visual encoder.
    """
    info = PriorInfo(sample_rate, prior_config.network, prior_config.diffusion)
    prior: SpeechPrior | NoisePrior
    if encoder is None:
        prior = NoisePrior(info)
    else:
        prior = SpeechPrior(info, load_visual_encoder(encoder.parent))
    if init_from is not None:
        warm_start(prior, init_from)
    return prior


def _lineage_of_start(init_from: Path | None) -> dict[str, str]:
    """What decides the first weights, where they are not random."""
    return {} if init_from is None else {"init_from": source_digest(init_from)}


def _tell_start(job: TrainingJob) -> None:
    """Name the layers that a warm start leaves out, on the log; fails before anything starts."""
    init_from = job.config.training.init_from
    if init_from is not None:
        for line in warm_start(job.build_prior(), Path(init_from)):
            log.warning(line)


def dry_run(arguments: argparse.Namespace) -> str:
    """What a run would do and take, in lines; the corpora need not be there."""
    if arguments.gpus is not None and arguments.gpus < 1:
        raise DavssError(f"--gpus {arguments.gpus}: give a number of GPUs, 1 or more")
    if not arguments.gpu_tflops > 0:
        raise DavssError(f"--gpu-tflops {arguments.gpu_tflops:g}: give a rate above 0")
    if arguments.gpus:
        resources = replace(launch.plan_resources((arguments.gpus,) * 2), use_gpu=True)
    else:
        workers = launch.parse_workers(os.environ.get("DAVSS_NUM_WORKERS"))
        resources = launch.plan_resources(workers)
    with tempfile.TemporaryDirectory() as folder:
        params = Path(arguments.params)
        if arguments.profile:
            params = Path(folder) / "params.yaml"
            params.write_text(compose(arguments.profile))
        prior = _planned_prior(arguments.name, params)
        training = config.load_section(params, _section(arguments.name), PriorConfig).training
        loop.check_workers(training, resources.num_workers)
        lines = describe(arguments.name, prior, training, resources, arguments.gpu_tflops)
        try:
            job = make_job(arguments.name, params, resources, "disabled")
        except DavssError as error:
            lines["state"] = f"none yet: {error}"
        else:
            saved = checkpoint.load_newest(job.checkpoints)
            lines["samples seen"] = f"{saved['samples_seen'] if saved else 0:,}"
            lines["state"] = str(job.state)
    return "\n".join(f"{name + ':':<14} {value}" for name, value in lines.items())


def _section(name: str) -> str:
    return "speech_prior" if name == SPEECH else "noise_prior"


def _planned_prior(name: str, params: Path) -> SpeechPrior | NoisePrior:
    """An untrained prior of the settings, with an empty visual encoder of the right size."""
    prior_config = config.load_section(params, _section(name), PriorConfig)
    shards = config.load_section(params, "shards", ShardsConfig)
    info = PriorInfo(shards.sample_rate, prior_config.network, prior_config.diffusion)
    if name != SPEECH:
        return NoisePrior(info)
    if shards.visual_encoder == "braven":
        return SpeechPrior(info, BravenLips("", 1024, 16, 4096, 24))  # Large
    basis = np.zeros((1, shards.num_components), np.float32)
    return SpeechPrior(info, Eigenlips(basis, np.ones(2 * shards.num_components, np.float32)))


def describe(
    name: str,
    prior: SpeechPrior | NoisePrior,
    training: TrainingConfig,
    resources: launch.Resources,
    gpu_tflops: float,
) -> dict[str, str]:
    """What a run takes, by title."""
    forecast = forecast_training(prior, training, resources.num_workers, gpu_tflops)
    kind = "GPU" if resources.use_gpu else "CPU"
    return {
        "prior": name,
        "parameters": f"{forecast.parameters:,}",
        "global batch": f"{forecast.global_batch} clips of {training.crop_seconds:g} s at "
        f"{prior.sample_rate} Hz",
        "workers": f"{resources.num_workers} on {kind}, at most {forecast.worker_batch} clips "
        f"each, {forecast.at_a_time} at a time",
        "steps": f"{forecast.steps:,} ({training.total_samples:,} samples)",
        **describe_forecast(forecast),
    }


def export(job: TrainingJob, saved: dict[str, Any]) -> None:
    """Publish the EMA weights, the history of losses and the final figures of a finished run."""
    prior = job.build_prior()
    average = ema.Ema(prior, job.config.training.ema_decay)
    average.load_state_dict(saved["ema"])
    average.copy_to(prior)
    provenance = {"run": job.state.name, "samples_seen": saved["samples_seen"]}
    prior.info = replace(prior.info, training=provenance | job.tracking.settings)
    published = Path("data/priors") / job.name
    save_prior(prior.eval(), published)
    tracker = tracking.start(job.tracking, job.state, rank=0)
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
    seen = reader.clips.key[reader.clips.num_frames > 0]
    lips = None if seen.empty else reader[seen.iloc[0]].lips
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
