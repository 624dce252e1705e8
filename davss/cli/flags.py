"""Flags of `davss` that are fields of settings: tables say what each means, the
settings themselves its type, its choices and its default.
"""

import argparse
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from davss import small
from davss.config import PRESETS, NoiseModel, SamplerConfig, SeparationConfig, parse, to_dict
from davss.errors import DavssError

SAMPLER_HELP = {
    "name": "dps is Algorithm 1 of DAVSS-NM; the others take no gradient through a network",
    "num_steps": "noise levels; each costs one call of both networks",
    "num_samples": "draws to average; the mean is closer to the truth, at that many times the cost",
    "zeta": "dps: pull of the likelihood; it moves a source by an RMS of zeta times the change of "
    "sigma",
    "zeta_late": "dps: the same below the RMS of the priors' signals",
    "guidance_weight": "strength of the lips; 0 is plain conditioning, at about half the cost",
    "guidance_form": "D of lips and of none: (1+w) D - w D0, or w D + (1-w) D0",
    "sigma_max": "noise level to begin at, for signals of RMS 0.05",
    "sigma_min": "last noise level",
    "rho": "curvature of the noise levels",
    "s_churn": "noise put back in, spread over all steps; 10 to 30 calibrates the posterior of dps",
    "s_noise": "scale of that noise",
    "order": "dps: 1 is Euler, 2 is Heun (two calls a step)",
    "multistep": "dps: second order from the step before, without a second call",
    "compression": "exponent of the magnitudes that the likelihood compares",
    "warm_start": "begin around equal parts of the mixture, not at pure noise",
    "likelihood": "daps: the exact sum, or the compressed STFT of dps",
    "inner_steps": "daps with likelihood stft: gradient steps a level, none through a network",
    "inner_noise": "daps: 1 draws the sources at every level, 0 takes their mean",
    "eta": "daps: share of fresh noise in the next state, 0 to 1",
    "ode_steps": "daps: calls of both networks a level",
    "variance": "daps: of the estimates' errors: one number, or measured per source, time and "
    "frequency",
    "sigma_y": "daps: RMS by which the sources may miss the mixture, for signals of RMS 0.05",
    "consistency": "share out at the end what the sources lack of the mixture",
    "window_seconds": "longest stretch separated at once, in s; longer recordings are cut",
    "overlap_seconds": "overlap of neighbouring windows, in s",
}

EXECUTION_HELP = {
    "batch_size": "windows of a long recording at a time; more are faster and take more memory",
    "precision": "of the networks; auto is bfloat16 on GPUs, float32 elsewhere",
    "compile": "torch.compile of the networks: a minute or two at first, then faster",
    "checkpointing": "dps: less memory, at the cost of a second forward",
}

NOISE = "|".join(["DIR", *get_args(NoiseModel)])
SPEECH_HELP = f"directory of a prior, or the name of the one that comes with davss, {small.SPEECH}"
NOISE_HELP = f"directory of a prior, the name of one that comes with davss ({small.NOISE}, "
NOISE_HELP += f"{small.NOISE_DNS}), or what needs none: nmf fits each mixture, gaussian is "
NOISE_HELP += "stationary, none takes all for speech"

DEFAULT_PRESET, PACKAGED_PRESET = "fast", "small"

Settings = TypeVar("Settings")


class Parser(argparse.ArgumentParser):
    """A parser for which a wrong flag is bad input like any other."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The same, but what a subcommand does not know is its own error, not that of `davss`."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help with defaults, but for flags that have none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


def path(text: str) -> Path:
    """A path that this system can look up, whether or not there is something."""
    try:
        text.encode()
        os.stat(text)
    except UnicodeEncodeError:
        shown = os.fsencode(text).decode(errors="backslashreplace")
        raise argparse.ArgumentTypeError(f"{shown}: name is not UTF-8; rename it") from None
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    return Path(text)


def noise_model(text: str) -> Path | str:
    """The name of a noise model that needs no training, unless a directory bears it, or a path."""
    return text if text in get_args(NoiseModel) and not Path(text).is_dir() else path(text)


def add_sampler(command: argparse.ArgumentParser) -> None:
    """Flags of every setting of the sampler that is not the priors' own."""
    group = command.add_argument_group(
        "sampler",
        "A preset, and what is to differ from it; a preset's own value is in brackets.",
    )
    text = f"where to start from (default: {PACKAGED_PRESET} with the speech prior that comes with "
    group.add_argument("--preset", choices=PRESETS, help=f"{text}davss, else {DEFAULT_PRESET})")
    values = {name: to_dict(preset) for name, preset in PRESETS.items()}
    for name, text in SAMPLER_HELP.items():
        own = {preset: _shown(values[preset][name]) for preset in PRESETS}
        if len(set(own.values())) == 1:
            note = own[DEFAULT_PRESET]
        else:
            note = ", ".join(f"{preset} {value}" for preset, value in own.items())
        _add_setting(group, SamplerConfig, name, f"{text} [{note}]")


def add_execution(command: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Flags of the named settings of SeparationConfig."""
    group = command.add_argument_group("how to compute; results change by rounding only")
    defaults = to_dict(SeparationConfig())
    for name in names:
        text = f"{EXECUTION_HELP[name]} (default: {_shown(defaults[name])})"
        _add_setting(group, SeparationConfig, name, text)


def _add_setting(group: Any, settings: type, name: str, text: str) -> None:
    """The flag of one field; it leaves nothing behind unless it is given."""
    hint = get_type_hints(settings)[name]
    kind: dict[str, Any]
    if hint is bool:
        kind = {"action": argparse.BooleanOptionalAction}
    elif get_origin(hint) is Literal:
        kind = {"choices": get_args(hint), "type": type(get_args(hint)[0])}
    else:
        kind = {"type": int if hint is int else float, "metavar": "N" if hint is int else "X"}
    flag = "--" + name.replace("_", "-")
    group.add_argument(flag, default=argparse.SUPPRESS, help=text, **kind)


def _shown(value: Any) -> str:
    """A setting as its flag would be given."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else "unset" if value is None else str(value)


def given(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named settings that have been given as flags."""
    return {name: value for name, value in vars(arguments).items() if name in names}


def sampler_settings(arguments: argparse.Namespace) -> SamplerConfig:
    """The preset, changed as the flags say; raises DavssError naming the flag at fault."""
    changes = given(arguments, SAMPLER_HELP)
    packaged = arguments.speech_prior and small.is_packaged(arguments.speech_prior)
    preset = arguments.preset or (PACKAGED_PRESET if packaged else DEFAULT_PRESET)
    return parse_flags(SamplerConfig, to_dict(PRESETS[preset]) | changes)


def execution_settings(arguments: argparse.Namespace) -> SeparationConfig:
    """How to compute, as the flags say."""
    return parse_flags(SeparationConfig, given(arguments, EXECUTION_HELP))


def parse_flags(settings: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Settings from flags; raises DavssError naming the flag at fault."""
    try:
        return parse(settings, values)
    except DavssError as error:
        named = re.match(r"key '(\w+)' = (.*)", str(error))
        if named is None:
            raise
        flag = "--" + named[1].replace("_", "-")
        raise DavssError(f"{flag} {named[2]}") from None
