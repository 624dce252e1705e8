"""Settings: frozen dataclasses, one per section of params.yaml, validated on construction.

`load_section(path, key, cls)` reads one section; an unknown key, a missing key, a wrong type or a
value out of range is one line naming the key. `digest(*settings)` names runs and caches. Nothing
else in davss reads params.yaml (`davss.params_file` takes the file apart).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.dataclasses import dataclass

from davss.errors import DavssError
from davss.params_file import read_yaml

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Corpus = Literal["voxceleb2", "speech", "wham", "dns"]
SPEECH_CORPUS: Corpus = "voxceleb2"  # the one with lips
NoiseModel = Literal["nmf", "gaussian", "none"]  # those that are not trained
ExperimentName = Literal[
    "noise_models", "lips", "conditions", "cost", "quality", "robust_sound", "robust_lips"
]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 on GPUs that have it


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("must be the lowest, then the highest")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
Seconds = Annotated[float, Field(ge=0.04)]  # a frame of video, or more
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what a column of a manifest holds
SOME = Field(min_length=1)
Names = Annotated[tuple[str, ...], SOME]
Natural = Annotated[int, Field(ge=0)]

Settings = TypeVar("Settings")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _settings(cls: type[Settings]) -> type[Settings]:
    # a string below a field says what it means; flags show it
    strict = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    decorate: Any = dataclass(frozen=True, kw_only=True, config=strict)
    return decorate(cls)


@_settings
class SamplerConfig:
    """Settings of all samplers, for signals of RMS 0.05 (docs/method.md §4, §5).

    `SamplerConfig(name=…, …)` makes the settings of that sampler, with what it has besides:
    `DpsConfig`, `DapsConfig`, `PseudoConfig`, `UdiffseConfig` or `MeanFieldConfig`; DavssError
    names one that another sampler has.
    """

    name: Literal["dps", "daps", "pseudo", "udiffse", "mean_field"] = "dps"
    """dps is Algorithm 1 of DAVSS-NM; the others take no gradient through a network"""
    num_steps: Count = 400
    """noise levels; each costs one call of both networks"""
    num_samples: Count = 1
    """draws to average; the mean is closer to the truth, at that many times the cost"""
    guidance_weight: float = 0.5
    """guidance by the lips, (1+w) D(lips) - w D(none); 0 conditions only, at about half the cost"""
    sigma_max: Positive = 0.5
    """first noise level, for signals of RMS 0.05"""
    sigma_min: Positive = 1e-4
    """last noise level"""
    rho: Positive = 10.0
    """curvature of the noise schedule; higher puts more steps at low noise"""
    s_churn: NonNegative = 0.0
    """noise added back, spread over all steps; 10 to 30 calibrates dps"""
    compression: Annotated[float, Field(gt=0, le=1)] = 2 / 3
    """exponent of the magnitudes in the likelihood; only dps uses it for more than its trace"""
    level: Positive = 1.0
    """how loud the mixture is to the priors; 1: sources as loud as each other have RMS 0.05"""
    window_seconds: Positive = 4.0
    """longest stretch separated at once, in s; longer recordings are cut"""
    overlap_seconds: Positive = 0.5
    """overlap of neighbouring windows, in s"""

    def __new__(cls, **settings: Any) -> SamplerConfig:
        """Settings of the sampler that `name` says."""
        return object.__new__(sampler_class(settings) if cls is SamplerConfig else cls)

    @field_validator("sigma_min")
    @classmethod
    def _below_sigma_max(cls, value: float, info: ValidationInfo) -> float:
        if value >= info.data.get("sigma_max", math.inf):
            raise ValueError(f"must be below sigma_max, {info.data['sigma_max']:g}")
        return value

    @field_validator("overlap_seconds")
    @classmethod
    def _half_a_window(cls, value: float, info: ValidationInfo) -> float:
        longest = info.data.get("window_seconds", math.inf) / 2
        if value > longest:
            raise ValueError(f"must be at most half of window_seconds, {longest:g}")
        return value


@_settings
class DpsConfig(SamplerConfig):
    """Algorithm 1; the defaults are the paper's."""

    name: Literal["dps"] = "dps"
    zeta: NonNegative = 0.5
    """strength of the likelihood: each step moves a source by an RMS of zeta times delta sigma"""
    order: Literal[1, 2] = 1
    """1 is Euler, 2 is Heun (two calls a step)"""
    consistency: bool = False
    """at the end, distribute the residual of the mixture equally over the sources"""


@_settings
class DapsConfig(SamplerConfig):
    """Decoupled annealing, conditioned on the sum in closed form (docs/method.md §5.1)."""

    name: Literal["daps"] = "daps"
    inner_noise: Fraction = 1.0
    """1 draws the sources at every level, 0 takes their mean"""
    shares: Literal["isotropic", "measured", "offer"] = "isotropic"
    """distribute the residual equally, or by the error per source, time and frequency: measured, or
    what a denoiser keeps of the residual offered to it (a second call)"""


@_settings
class PseudoConfig(SamplerConfig):
    """Each source observed as what the others leave of the mixture (docs/method.md §5.2)."""

    name: Literal["pseudo"] = "pseudo"
    consistency: bool = False
    """at the end, distribute the residual of the mixture equally over the sources"""


@_settings
class UdiffseConfig(SamplerConfig):
    """AV-UDiffSE, which samples speech alone and fits the noise (docs/method.md §5.3, where it is
    said which defaults are not its publication's).
    """

    name: Literal["udiffse"] = "udiffse"
    num_steps: Count = 30
    num_samples: Count = 2
    sigma_min: Positive = 0.0057
    rho: Positive = 100.0
    likelihood_weight: NonNegative = 1.5
    """lambda, the weight of the mixture"""
    likelihood_every: Count = 1
    """steps from one fit of the noise and move towards the mixture to the next"""
    corrector: NonNegative = 0.2
    """step of the Langevin corrector, in noise levels"""
    noise_rank: Count = 4
    """components of the noise"""
    noise_n_fft: Count = 512
    """STFT of the noise, in samples: 32 ms at 16 kHz"""


@_settings
class MeanFieldConfig(SamplerConfig):
    """Each source in one call, the others taken for coloured noise (docs/method.md §5.4); for
    priors that know it, and nothing is drawn.
    """

    name: Literal["mean_field"] = "mean_field"
    num_samples: Literal[1] = 1
    num_steps: Count = 1
    guidance_weight: float = 0.0
    level: Positive = 0.35


SAMPLERS: dict[str, type[SamplerConfig]] = {
    "dps": DpsConfig,
    "daps": DapsConfig,
    "pseudo": PseudoConfig,
    "udiffse": UdiffseConfig,
    "mean_field": MeanFieldConfig,
}


def sampler_class(values: Any, where: str = "") -> type[SamplerConfig]:
    """The settings class that `values` name; DavssError for a key that another sampler has."""
    name = values.get("name", "dps") if isinstance(values, dict) else None
    cls = SAMPLERS.get(str(name))
    if cls is None:
        return SamplerConfig  # whose validation says which names there are
    for key in values:
        owners = [other for other, its in SAMPLERS.items() if key in names_of(its)]
        if owners and name not in owners:
            raise DavssError(
                f"key '{where}{'.' if where else ''}{key}': a setting of {' and '.join(owners)}, "
                f"not of {name}; leave it out, or choose that sampler by its name"
            )
    return cls


# `davss separate --preset`; measured beside each other in docs/benchmarks.md
PRESETS: dict[str, SamplerConfig] = {
    "fast": DapsConfig(
        num_steps=10,
        num_samples=4,
        inner_noise=0.0,
        shares="measured",
        sigma_min=1e-3,
        rho=5.0,
        guidance_weight=0.0,
    ),
    "paper": DpsConfig(),
    # For packaged priors of 16 kHz (davss/small).
    "small16": DapsConfig(
        num_steps=6,
        num_samples=2,
        inner_noise=0.0,
        shares="offer",
        sigma_max=0.2,
        sigma_min=0.03,
        rho=3.0,
        guidance_weight=0.0,
    ),
    "direct": MeanFieldConfig(),
}


@_settings
class NetworkConfig:
    """NCSN++M and its STFT front end (docs/method.md §7)."""

    nf: Count = 128  # channels of the first level
    ch_mult: Annotated[tuple[Count, ...], SOME] = (1, 2, 2, 2)  # of each level, as multiples of nf
    n_fft: Count = 510  # window of the STFT, in samples
    hop_length: Count = 128  # its hop, in samples
    fourier_scale: Positive = 16.0  # of the random frequencies that tell the noise level
    spectral: bool = False  # see frequency, level and mean level of each bin, and give it a gain
    coloured: bool = False  # preconditioned by the spectra of what is sought and of what is noise

    @field_validator("hop_length")
    @classmethod
    def _windows_meet(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("n_fft", math.inf):
            raise ValueError(f"must be at most n_fft, {info.data['n_fft']}")
        return value


@_settings
class AugmentConfig:
    """Variations of training crops (davss/shards/augment.py); of voices colour, thin, dull only."""

    sum_fraction: Fraction = 0.0  # share of the crops that get another one added
    sum_db: Range = (-15.0, 0.0)  # gain of the one that is added, in dB
    speed: PositiveRange = (1.0, 1.0)  # lowest and highest, drawn log-uniformly
    colour_db: NonNegative = 0.0  # standard deviation of an octave's gain, in dB
    thin: Fraction = 0.0  # share of the crops that a poor microphone hears: little of what is low
    thin_hz: PositiveRange = (200.0, 2000.0)  # where that begins, log-uniformly, in Hz
    dull: Fraction = 0.0  # share of the crops that a narrow line carries: nothing of what is high
    dull_hz: PositiveRange = (2000.0, 6000.0)  # where that ends, log-uniformly, in Hz
    reverse: bool = False  # play half of the crops backwards


@_settings
class ForeignConfig:
    """Single sounds of the other kind in training; beyond the paper (docs/method.md §2.2, §2.3)."""

    corpus: str | None = None  # where the sounds are from: NAME of data/shards/NAME
    augment: AugmentConfig = AugmentConfig()  # variations of their crops
    negatives: Share = 0.0  # share of the items that are foreign sounds, to be silenced
    sigma: PositiveRange = (0.02, 0.6)  # white noise levels of negatives
    splices: Share = 0.0  # share of the items that are half foreign, side by side
    coloured: Fraction = 0.0  # share of the items in noise with the spectrum of a foreign sound
    snr_db: Range = (-10.0, 20.0)  # level of sigma_data over coloured noise, in dB
    quiet: Fraction = 0.0  # share of coloured items of which only the stationary part is told

    @field_validator("splices")
    @classmethod
    def _some_are_own(cls, value: float, info: ValidationInfo) -> float:
        if value + info.data.get("negatives", 0.0) >= 1:
            raise ValueError("must leave items that are neither negatives nor splices")
        return value

    @property
    def is_used(self) -> bool:
        """Whether any item needs a foreign sound."""
        return self.negatives + self.splices + self.coloured > 0


@_settings
class DiffusionConfig:
    """Noise levels and levels of signals in training (docs/method.md §2)."""

    sigma_data: Positive = 0.05  # RMS that signals are brought to
    sigma_min: Positive = 1e-5  # lowest noise level
    sigma_max: Positive = 10.0  # highest noise level
    rho: Positive = 10.0  # curvature of the law of noise levels; higher draws more low ones
    lognormal: tuple[float, Positive] | None = None  # mean, std of ln sigma instead of rho's law
    lips_dropout: Fraction = 0.2  # share of the clips whose lips are left out
    gain_db: Range = (-10.0, 5.0)  # level of a clip about sigma_data, lowest, highest

    @field_validator("sigma_max")
    @classmethod
    def _above_sigma_min(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("sigma_min", 0):
            raise ValueError(f"must be above sigma_min, {info.data['sigma_min']:g}")
        return value


@_settings
class TrainingConfig:
    """Optimisation of one prior; progress is counted in samples (clips) seen."""

    crop_seconds: Seconds = 4.0  # length of a clip in training, in s
    global_batch_size: Count = 16  # clips a step, of all workers together
    max_batch_per_worker: Count | None = None  # more are computed one after another (None: never)
    total_samples: Count = 3_200_000  # clips of the whole run
    learning_rate: Positive = 1e-4  # of Adam, after the warm-up
    warmup_samples: Natural = 16_000  # clips over which the learning rate rises from 0
    final_learning_rate_fraction: Fraction = 1.0  # of it at the end of a cosine; 1: it stays
    grad_clip: Positive = 1.0  # largest norm of a step's gradient
    ema_decay: Share = 0.9999  # of the averaged weights, which are those that separate
    validate_every: Count = 32_000  # samples from one validation to the next
    validation_clips: Count = 64  # held-out clips of a validation
    checkpoint_every: Count = 16_000  # samples from one checkpoint to the next
    separate_every: Natural = 160_000  # at a validation, samples having passed; 0: never
    validation_mixtures: Count = 8  # mixtures of a separation on the way
    validation_sampler_steps: Count = 20  # its steps, of the sampler daps
    validation_speech_prior: str | None = None  # with which a noise prior separates
    init_from: str | None = None  # weights to start from: a prior or a public checkpoint
    keep_checkpoints: Count = 2  # the newest; the best one is kept besides
    loader_workers: Natural = 2  # processes that read, of each worker
    shuffle_buffer: Count = 100_000  # clips that are shuffled among each other, about
    augment: AugmentConfig = AugmentConfig()  # variations of its crops
    foreign: ForeignConfig = ForeignConfig()  # sounds of the other kind
    audio_only_corpus: str | None = None  # speech without lips besides: NAME of data/shards/NAME
    audio_only_fraction: Share = 0.0  # share of the clips that are from there
    precision: Precision = "auto"  # of the network; auto is bfloat16 on GPUs that have it
    compile: bool = False  # torch.compile of the network: a minute or two, then faster
    hang_factor: NonNegative = 50.0  # a step that takes so many median steps hangs (0: never)
    hang_seconds: Positive = 300.0  # and not less than this


@_settings
class PriorConfig:
    """Everything that defines one prior and its training."""

    network: NetworkConfig = NetworkConfig()  # its size
    diffusion: DiffusionConfig = DiffusionConfig()  # its noise levels
    training: TrainingConfig = TrainingConfig()  # how it is trained


@_settings
class CorpusConfig:
    """Where a raw corpus lies in its official layout, and how it is split where it has no official
    split.
    """

    root: str  # folder or s3://bucket/prefix
    split_fractions: tuple[Fraction, Fraction, Fraction] = (0.90, 0.05, 0.05)  # train, valid, test
    without_video: bool = True  # VoxCeleb2: take clips that are sound alone
    augmented: bool = False  # WHAM!: take speed-perturbed copies too


@_settings
class DemoConfig:
    """The demo corpora written from the embedded recordings (pipelines/demo_corpus.py)."""

    dev_speakers: Names  # voices of training, folders of pipelines/demo_data/speech
    test_speakers: Names  # voices of the test
    dev_speeds: Annotated[tuple[Positive, ...], SOME] = (1.0,)  # of voices of training
    clips_per_speaker: Count = 36  # of each voice of training and speed
    test_clips_per_speaker: Count = 12  # of each voice of the test
    wham_scenes: Names  # files of pipelines/demo_data/noise in WHAM!'s layout
    dns_scenes: Names  # and in DNS's


@_settings
class ShardsConfig:
    """Raw clips into WebDataset shards (docs/shards.md)."""

    sample_rate: Count = 16_000  # of the sound, in Hz
    visual_encoder: Literal["eigenlips", "lipsound", "braven"] = "eigenlips"  # of the lips
    braven_checkpoint: str | None = None  # path of the public file, for visual_encoder braven
    num_components: Count = 48  # eigenlips
    encoder_fit_clips: Count = 2000  # clips that eigenlips and lipsound are fitted to, at most
    validation_fraction: Fraction = 0.01  # share of VoxCeleb2's dev that validates
    validation_by: Literal["clip", "speaker"] = "speaker"  # what that share is of
    high_pass_hz: NonNegative = 0.0  # of voices, against rumble
    min_seconds: Positive = 4.0  # shorter clips are rejected
    min_active: Fraction = 0.0  # least share of the time with speech; of VoxCeleb2 only
    min_snr_db: float | None = None  # least SNR, estimated from the levels of pauses; likewise
    resample_video: bool = False  # take other frame rates: of each 1/25 s the nearest frame
    min_face: Fraction = 0.8  # least share of frames with a face
    max_face_gap: NonNegative = 0.5  # seconds without a face that may be interpolated
    shard_megabytes: Positive = 512.0  # size of a shard, about


@_settings
class MixturesConfig:
    """The evaluation mixtures of one condition (docs/method.md §10)."""

    num_speakers: Annotated[tuple[Count, ...], SOME] = (1, 2, 3)  # speakers of a mixture
    per_num_speakers: Count = 1000  # mixtures for each number of speakers
    seconds: Seconds = 4.0  # length of a mixture
    sir_db: Annotated[tuple[float, ...], SOME] = (0.0, 5.0)  # speaker 1 over each other, in dB
    snr_db: Range = (0.0, 10.0)  # all speech over the noise, lowest, highest, in dB
    list: str | None = None  # path of a test list of pairs, in place of the first two


@_settings
class SeparationConfig:
    """How a separator computes; results depend on it by rounding only."""

    batch_size: Count = 4
    """mixtures, or windows of a long recording, at a time; more are faster and take more memory"""
    precision: Precision = "auto"
    """of the networks; auto is bfloat16 on GPUs that have it, float32 elsewhere"""
    compile: bool = False
    """torch.compile of the networks: a minute or two at first, then faster"""
    checkpointing: bool = False
    """dps: less memory, at the cost of a second forward"""


@_settings
class ReportConfig:
    """What the report page shows."""

    examples_per_condition: Count = 3  # mixtures to listen to, of each noise prior and condition


@_settings
class ExperimentConfig:
    """The experiments on small priors (docs/results.md): what is mixed, and how much of it."""

    mixtures: Count = 40  # of each cell of a table
    seconds: Seconds = 2.8  # length of a mixture
    speech_corpus: str = "speech"  # speakers without lips, off-screen: NAME of data/shards/NAME
    lips_speaker: str | None = None  # of VoxCeleb2's test; None: whoever has the most clips there
    noise: str = "wham"  # noise of all experiments but `conditions`; its prior is matched
    snr_db: tuple[float, ...] = (0.0, 5.0, 10.0)  # of noise_models
    num_speakers: tuple[Literal[1, 2], ...] = (1, 2)  # of noise_models
    guidance_weights: tuple[NonNegative, ...] = (0.0, 0.5, 1.0)  # of lips, with right lips
    lips_weight: NonNegative = 0.0  # of lips, with all others
    lips_shifts: tuple[Positive, ...] = (0.2, 0.4)  # seconds by which lips come too late
    lips_snr_db: float = 10.0  # all speech over the noise in lips, in dB
    conditions_snr_db: float = 5.0  # the same in conditions
    cost_mixtures: Count = 20  # mixtures of cost
    cost_snr_db: float = 5.0  # all speech over the noise in cost, in dB
    cost_samplers: tuple[str, ...] = (  # presets, or samplers with steps and draws
        "daps 5",
        "daps 10",
        "daps 20",
        "daps 5 × 4",
        "fast",
        "dps 10",
        "dps 20",
        "dps 40",
    )
    damage_noise: str = "gaussian"  # noise model of robust_sound and robust_lips
    sound_damage: tuple[str, ...] = (  # of robust_sound, as davss.evaluation.damage lists it
        *("level:-30", "level:-20", "level:-10", "level:10", "level:20", "level:30"),
        *("clip:0.003", "clip:0.01", "clip:0.03", "clip:0.1", "clip:0.3"),
        *("opus:32", "opus:16", "opus:12", "opus:8", "opus:6"),
        *("reverb:0.2", "reverb:0.4", "reverb:0.6", "reverb:0.8"),
        "band:telephone",
    )
    lips_damage: tuple[str, ...] = (  # of robust_lips
        *("shift:-10", "shift:-5", "shift:-3", "shift:-2", "shift:-1"),
        *("shift:1", "shift:2", "shift:3", "shift:5", "shift:10"),
        *("dropped:0.25", "dropped:0.5", "dropped:0.75", "dropped:0.9"),
        *("frozen:0.25", "frozen:0.5", "frozen:1"),
        *("covered:0.25", "covered:0.5", "covered:1"),
        *("pixels:32", "pixels:16", "pixels:8"),
        *("blur:2", "blur:4", "blur:8"),
        *("video:40", "video:46", "video:51"),
    )


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    key = ".".join([where, *(str(part) for part in first["loc"])]).strip(".")
    if first["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"unknown key '{key}'; remove it or correct its spelling"
    if first["type"].startswith("missing"):
        return f"missing key '{key}'"
    message = first["msg"].removeprefix("Value error, ")
    return f"key '{key}' = {first['input']!r}: {message[0].lower() + message[1:]}"


def parse(cls: type[Settings], values: Any, where: str = "") -> Settings:
    """Build settings `cls` from plain YAML/JSON `values`; raises DavssError naming the offending
    key.
    """
    if cls is SamplerConfig:
        cls = sampler_class(values, where)  # type: ignore[assignment]
    try:
        plain = json.dumps(values)
    except (TypeError, ValueError) as error:  # by a YAML tag, or an anchor within itself
        text = str(error)
        raise DavssError(f"key '{where}': {text[0].lower()}{text[1:]}; give plain values") from None
    try:
        return TypeAdapter(cls).validate_json(plain, strict=True)
    except ValidationError as error:
        raise DavssError(_explain(error, where)) from None


def load_section(path: str | Path, key: str, cls: type[Settings]) -> Settings:
    """Read section `key` (dots descend) of the YAML file `path` into settings `cls`."""
    node: Any = read_yaml(Path(path))
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            raise DavssError(f"{path}: missing key '{key}'")
        node = node[part]
    try:
        return parse(cls, node, key)
    except DavssError as error:
        raise DavssError(f"{path}: {error}") from None


def names_of(cls: type) -> list[str]:
    """The settings that a class has."""
    return [field.name for field in dataclasses.fields(cls)]


def meaning(cls: type, name: str) -> str:
    """What is written below a setting of `cls`, or of a class that it extends."""
    fields = (getattr(base, "__pydantic_fields__", {}).get(name) for base in cls.__mro__)
    return next((field.description for field in fields if field and field.description), "")


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain dictionary of settings, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def digest(*parts: Any) -> str:
    """Twelve hex digits that change whenever any of `parts` (settings, dictionaries, strings)
    changes.
    """
    plain = [to_dict(part) if dataclasses.is_dataclass(part) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
