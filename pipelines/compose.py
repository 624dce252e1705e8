"""params.yaml from the Hydra profiles in pipelines/conf, exactly as `dvc exp run` composes it.

Run `python -m pipelines.compose` to refresh params.yaml (the demo profile), with `--profile paper`
for the paper's, `KEY=VALUE` to override, `--check` to compare only. Every section is validated
before anything is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from davss import config
from davss.errors import DavssError
from davss.params_file import read_yaml
from davss.storage import publish

CONF = Path(__file__).parent / "conf"

NoiseCorpus = Literal["wham", "dns"]
SECTIONS: dict[str, Any] = {
    "profile": Literal["demo", "paper", "small", "small16"],
    "seed": config.Seed,
    "noise_priors": list[NoiseCorpus],
    "noise_models": list[Literal[NoiseCorpus, config.NoiseModel]],
    "conditions": list[NoiseCorpus],
    "demo_corpora": list[Literal["demo"]],
    "corpora": dict[config.Corpus, config.CorpusConfig],
    "demo": config.DemoConfig,
    "shards": config.ShardsConfig,
    "speech_prior": config.PriorConfig,
    "noise_prior": config.PriorConfig,
    "mixtures": config.MixturesConfig,
    "sampler": config.SamplerConfig,
    "separation": config.SeparationConfig,
    "report": config.ReportConfig,
    "experiments": list[config.ExperimentName],
    "experiment": config.ExperimentConfig,
}


def compose(profile: str = "demo", overrides: Sequence[str] = ()) -> str:
    """The text of params.yaml for `profile`; DavssError for an override that names no key."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF.resolve()), version_base=None):
        try:
            composed = hydra_compose("config", overrides=[f"profile={profile}", *overrides])
        except HydraException as error:
            raise DavssError(f"{CONF}: {' '.join(str(error).split())}") from None
    OmegaConf.resolve(composed)
    return OmegaConf.to_yaml(composed)


def validate(params: Any) -> None:
    """Check the sections of `params`; DavssError names the first key that is unknown or wrong."""
    if not isinstance(params, dict):
        raise DavssError("not a mapping of sections")
    for name, values in params.items():
        if name not in SECTIONS:
            raise DavssError(f"unknown key '{name}'; remove it or correct its spelling")
        config.parse(SECTIONS[name], values, name)
    _check_noise_models(params.get("noise_models", []), params.get("noise_priors", []))


def _check_noise_models(models: Sequence[str], trained: Sequence[str]) -> None:
    for corpus in get_args(NoiseCorpus):
        if corpus in models and corpus not in trained:
            raise DavssError(
                f"key 'noise_models': no noise prior is trained on '{corpus}'; add it to "
                "noise_priors, or take it out of noise_models"
            )


def validate_file(path: Path) -> None:
    """Check the params file `path`; raises DavssError naming the file and the key."""
    params = read_yaml(path)
    try:
        validate(params)
    except DavssError as error:
        raise DavssError(f"{path}: {error}") from None


def check_argv(argv: Sequence[str]) -> None:
    """Check the params file that a stage called with `argv` will read, unless it asks for help."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("-h", "--help", action="store_true")
    known, _ = parser.parse_known_args(argv)
    if not known.help:
        validate_file(known.params)


def main(argv: Sequence[str] | None = None) -> None:
    """Compose, validate, and write or compare params.yaml."""
    parser = argparse.ArgumentParser(prog="pipelines.compose", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--profile", default="demo", help="demo (default), paper, small or small16")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="the file to write"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when it differs")
    args = parser.parse_args(argv)
    text = compose(args.profile, args.overrides)
    validate(yaml.safe_load(text))
    if not args.check:
        with publish(args.params) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif not args.params.is_file() or args.params.read_text(encoding="utf-8") != text:
        raise DavssError(
            f"{args.params}: differs from pipelines/conf, profile {args.profile}; run `make params`"
        )


if __name__ == "__main__":
    from pipelines import run

    run(main, reads_params=False)
