"""The job of training one prior: settings, shards, validation, and what makes it another run.

Called by the stage `pipelines.train_prior` and its dry run. A run's name is the digest of all that
decides its weights, so that changed settings, data or code begin anew instead of going on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas

from davss import config
from davss.code import code_digest
from davss.config import SPEECH_CORPUS, PriorConfig, ShardsConfig, TrainingConfig
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior, load_prior
from davss.diffusion.public import source_digest
from davss.errors import DavssError
from davss.networks.visual import encoder_file, load_visual_encoder
from davss.shards.loader import training_loader, training_shards
from davss.shards.reader import ShardReader
from davss.storage import LocalStore, open_storage, sha256
from davss.storage.cache import scratch_root
from davss.storage.mirror import Mirror
from davss.training import tracking
from davss.training.job import TrainingJob
from davss.training.separation import ValidationMixtures, mix_noises, mix_voices
from davss.training.validation import ValidationClips, load_clips
from davss.training.warm_start import warm_start

SPEECH = "speech"
# Settings that change no weight, but for rounding. What `init_from` names is among the data.
_HOW = {
    *("max_batch_per_worker", "loader_workers", "keep_checkpoints", "hang_factor", "hang_seconds"),
    *("validate_every", "checkpoint_every", "separate_every"),
    *("validation_mixtures", "validation_sampler_steps"),
    *("validation_speech_prior", "init_from"),
}


def make_job(name: str, params: Path, mode: str) -> TrainingJob:
    """The job of prior `name`; every piece is checked before anything starts."""
    speech = name == SPEECH
    prior_config = config.load_section(params, section_of(name), PriorConfig)
    augment = prior_config.training.augment
    if speech and (augment.sum_fraction or augment.speed != (1.0, 1.0) or augment.reverse):
        raise DavssError(
            "speech_prior.training.augment: sums, speed and backwards are for noise, they would "
            "part a voice from its lips; set colour_db, thin or dull"
        )
    sample_rate = config.load_section(params, "shards", ShardsConfig).sample_rate
    seed = config.load_section(params, "seed", int)
    training = prior_config.training
    corpus = SPEECH_CORPUS if speech else name
    manifests, shards_in = _manifests(corpus), open_storage()
    shards = training_shards(manifests, shards_in, prior_config, sample_rate)
    if training.foreign.coloured and not prior_config.network.coloured:
        raise DavssError(f"{section_of(name)}.training.foreign.coloured: needs network.coloured")
    further: dict[str, Any] = {
        use: training_shards(_manifests(corpus), shards_in, prior_config, sample_rate)
        for use, corpus in _further_corpora(training).items()
    }
    reader = ShardReader(manifests, shards_in, "valid")
    encoder = _visual_encoder(manifests, reader) if speech else None
    init_from = Path(training.init_from).resolve() if training.init_from else None
    settings = {
        "prior": name,
        "seed": seed,
        "sample_rate": sample_rate,
        **_without_the_how(config.to_dict(prior_config)),
        "data": _data_digests(manifests, encoder, training),
        "code": code_digest("pipelines.training_job", "davss.training.loop"),
        **({"init_from": source_digest(init_from)} if init_from else {}),
    }
    run_id = config.digest(settings)
    return TrainingJob(
        name=name,
        config=prior_config,
        seed=seed,
        sample_rate=sample_rate,
        **_places(f"training/{name}-{run_id}"),
        build_prior=partial(_build_prior, prior_config, sample_rate, encoder, init_from),
        training_batches=partial(
            training_loader, shards, prior_config, sample_rate, seed, **further
        ),
        validation_clips=partial(
            load_clips,
            reader,
            prior_config,
            sample_rate,
            count=training.validation_clips,
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


def _places(run: str) -> dict[str, Any]:
    """The folder of the run here, and what keeps it where the storage is a bucket."""
    store = open_storage()
    if isinstance(store, LocalStore):
        return {"state": store.root / run}
    state = scratch_root() / run
    return {"state": state, "mirror": Mirror(store, run, state)}


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
    reader = ShardReader(_manifests(SPEECH_CORPUS), open_storage(), "valid")
    voices = load_clips(reader, prior_config, sample_rate, count=count, with_lips=True)
    return partial(mix_noises, voices, count=count, speech_prior=partial(load_prior, path))


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


def section_of(name: str) -> str:
    """The params section of prior `name`."""
    return "speech_prior" if name == SPEECH else "noise_prior"


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


def _further_corpora(training: TrainingConfig) -> dict[str, str]:
    """The corpora that a run uses besides its own, by what for."""
    foreign, found = training.foreign, {}
    for use, setting, corpus, is_used in (
        (
            "audio_only",
            "audio_only_corpus",
            training.audio_only_corpus,
            training.audio_only_fraction,
        ),
        ("foreign", "foreign.corpus", foreign.corpus, foreign.is_used),
    ):
        if is_used and corpus is None:
            raise DavssError(f"training.{setting}: name the corpus, or leave its fractions at 0")
        if is_used:
            found[use] = str(corpus)
    return found


def _without_the_how(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a run's result, but for rounding: others may change on the way."""
    training = {name: value for name, value in settings["training"].items() if name not in _HOW}
    return settings | {"training": training}


def _visual_encoder(manifests: Path, reader: ShardReader) -> Path:
    """The file that names the visual encoder, once its feature size is that of the shards."""
    path = encoder_file(manifests)
    if path is None:
        raise DavssError(
            f"{manifests}: names no visual encoder; run `python -m pipelines.shards "
            f"{SPEECH_CORPUS}`"
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


def _data_digests(
    manifests: Path, encoder: Path | None, training: TrainingConfig
) -> dict[str, Any]:
    """What the training data are: sha256 of every shard and of the visual encoder."""
    digests: dict[str, Any] = {
        split: pandas.read_parquet(manifests / f"{split}.parquet")["sha256"].tolist()
        for split in ("train", "valid")
    }
    for use, corpus in _further_corpora(training).items():
        manifest = pandas.read_parquet(_manifests(corpus) / "train.parquet")
        digests[use] = manifest["sha256"].tolist()
    return digests | ({"visual_encoder": sha256(encoder)} if encoder else {})
