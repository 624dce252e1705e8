"""Settings: frozen dataclasses, one per section of params.yaml, validated on construction.

`load_section(path, key, cls)` reads one section; an unknown key, a missing key, a wrong type or a
value out of range is one line naming the key. `digest(*settings)` names runs and caches. Nothing
else in davss reads params.yaml.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from davss.errors import DavssError

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

_settings = dataclass(
    frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False)
)


@_settings
class SamplerConfig:
    """How sources are sampled (docs/method.md §4); the defaults are the paper's."""

    name: Literal["dps"] = "dps"
    num_steps: Count = 400
    zeta: NonNegative = 0.5
    guidance_weight: float = 0.5
    guidance_form: Literal["extrapolate", "interpolate"] = "extrapolate"
    sigma_max: Positive = 0.5
    sigma_min: Positive = 1e-4
    rho: Positive = 10.0
    s_churn: NonNegative = 0.0
    s_noise: NonNegative = 1.0
    order: Literal[1, 2] = 1
    compression: Annotated[float, Field(gt=0, le=1)] = 2 / 3
    warm_start: bool = False
    num_samples: Count = 1


@_settings
class NetworkConfig:
    """NCSN++M and its STFT front end (docs/method.md §7)."""

    nf: Count = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    n_fft: Count = 510
    hop_length: Count = 128
    fourier_scale: Positive = 16.0


@_settings
class DiffusionConfig:
    """Noise levels and levels of signals in training (docs/method.md §2)."""

    sigma_data: Positive = 0.05
    sigma_min: Positive = 1e-5
    sigma_max: Positive = 10.0
    rho: Positive = 10.0
    lips_dropout: Fraction = 0.2
    gain_db: tuple[float, float] = (-10.0, 5.0)


@_settings
class TrainingConfig:
    """Optimisation of one prior; progress is counted in samples (clips) seen."""

    crop_seconds: Positive = 4.0
    global_batch_size: Count = 16
    total_samples: Count = 3_200_000
    learning_rate: Positive = 1e-4
    warmup_samples: int = 16_000
    final_learning_rate_fraction: Fraction = 1.0
    grad_clip: Positive = 1.0
    ema_decay: Fraction = 0.9999
    validate_every: Count = 32_000
    validation_clips: Count = 64
    checkpoint_every: Count = 16_000
    loader_workers: int = 2
    shuffle_buffer: Count = 1000


@_settings
class PriorConfig:
    """Everything that defines one prior and its training."""

    network: NetworkConfig = NetworkConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig = TrainingConfig()


@_settings
class CorpusConfig:
    """Where a raw corpus lies in its official layout, and how it is split where it has no official
    split.
    """

    root: str
    split_fractions: tuple[Fraction, Fraction, Fraction] = (0.90, 0.05, 0.05)


@_settings
class DemoConfig:
    """The demo corpora written from the embedded recordings (pipelines/demo_corpus.py)."""

    dev_speakers: tuple[str, ...]
    test_speakers: tuple[str, ...]
    dev_speeds: tuple[Positive, ...] = (1.0,)
    clips_per_speaker: Count = 36
    test_clips_per_speaker: Count = 12
    wham_scenes: tuple[str, ...]
    dns_scenes: tuple[str, ...]


@_settings
class ShardsConfig:
    """Raw clips into WebDataset shards (design: shard contract v1)."""

    sample_rate: Count = 16_000
    visual_encoder: Literal["eigenlips", "braven"] = "eigenlips"
    num_components: Count = 48
    encoder_fit_clips: Count = 2000
    validation_fraction: Fraction = 0.01
    min_seconds: Positive = 4.0
    shard_megabytes: Positive = 512.0


@_settings
class MixturesConfig:
    """The evaluation mixtures of one condition (docs/method.md §10)."""

    num_speakers: tuple[Count, ...] = (1, 2, 3)
    per_num_speakers: Count = 1000
    seconds: Positive = 4.0
    sir_db: tuple[float, ...] = (0.0, 5.0)
    snr_db: tuple[float, float] = (0.0, 10.0)


@_settings
class SeparationConfig:
    """How mixtures are packed for the sampler; results do not depend on it."""

    batch_size: Count = 4


@_settings
class ReportConfig:
    """What the report page shows."""

    examples_per_condition: Count = 3


Settings = TypeVar("Settings")


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    key = ".".join([where, *(str(part) for part in first["loc"])]).strip(".")
    if first["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"unknown key '{key}'; remove it or correct its spelling"
    if first["type"].startswith("missing"):
        return f"missing key '{key}'"
    return f"key '{key}' = {first['input']!r}: {first['msg'].lower()}"


def parse(cls: type[Settings], values: Any, where: str = "") -> Settings:
    """Build settings `cls` from plain YAML/JSON `values`; raises DavssError naming the offending
    key.
    """
    try:
        return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise DavssError(_explain(error, where)) from None


def load_section(path: str | Path, key: str, cls: type[Settings]) -> Settings:
    """Read section `key` (dots descend) of the YAML file `path` into settings `cls`."""
    node: Any = _read_yaml(Path(path))
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            raise DavssError(f"{path}: missing key '{key}'")
        node = node[part]
    try:
        return parse(cls, node, key)
    except DavssError as error:
        raise DavssError(f"{path}: {error}") from None


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise DavssError(f"{path}: no such params file; run from the repository root") from None
    except yaml.YAMLError as error:
        raise DavssError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain dictionary of settings, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def digest(*parts: Any) -> str:
    """Twelve hex digits that change whenever any of `parts` (settings, dictionaries, strings)
    changes.
    """
    plain = [to_dict(part) if dataclasses.is_dataclass(part) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
