"""Flags of `davss` that are settings: meaning, type, choices and default are those of the field."""

import argparse
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from davss import small
from davss.config import (
    PRESETS,
    SAMPLERS,
    NoiseModel,
    SamplerConfig,
    SeparationConfig,
    meaning,
    names_of,
    parse,
    to_dict,
)
from davss.errors import DavssError, one_line

NOISE = "|".join(["DIR", *get_args(NoiseModel)])
SPEECH_HELP = f"directory of a prior, or a packaged one ({small.SPEECH}, {small.SPEECH_16})"
NOISE_HELP = f"directory of a prior, a packaged one ({small.NOISE}, {small.NOISE_DNS}, "
NOISE_HELP += f"{small.NOISE_16}), or an untrained model: nmf, fitted to each mixture, "
NOISE_HELP += "gaussian, stationary, or none, which takes everything for speech"

Settings = TypeVar("Settings")


class Parser(argparse.ArgumentParser):
    """A parser for which a wrong flag is bad input like any other."""

    _given: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        dashed = [text for text in self._given if text.startswith("-") and os.path.isfile(text)]
        if dashed:
            message = f"{dashed[0]}: its dash is that of a flag; write ./{dashed[0]}"
        self.exit(2, f"error: {one_line(message)}; see `{self.prog} --help`\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The same, but what a subcommand does not know is its own error, not that of `davss`."""
        self._given = sys.argv[1:] if args is None else list(args)
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
    if not text:  # which would be the current folder
        raise argparse.ArgumentTypeError("an empty name; is a variable of the shell unset?")
    if re.match(r"[a-z0-9]+://", text):
        raise argparse.ArgumentTypeError(
            f"{text}: an address; give a file or folder of this machine"
        )
    try:
        text.encode()
        os.stat(text)
    except UnicodeEncodeError:
        shown = os.fsencode(text).decode(errors="backslashreplace")
        why = "name is not UTF-8; rename it"
        if shown.encode() == os.fsencode(text):
            why = "this locale does not know its name; set PYTHONUTF8=1"
        raise argparse.ArgumentTypeError(f"{shown}: {why}") from None
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    return Path(text)


def noise_model(text: str) -> Path | str:
    """The name of a noise model that needs no training, unless a directory bears it, or a path."""
    return text if text in get_args(NoiseModel) and not Path(text).is_dir() else path(text)


def sampler_settings_by_name() -> dict[str, list[type[SamplerConfig]]]:
    """The settings of all samplers, each with the classes that have it."""
    found: dict[str, list[type[SamplerConfig]]] = {}
    classes: list[type[SamplerConfig]] = [SamplerConfig, *SAMPLERS.values()]
    for cls in classes:
        for name in names_of(cls):
            found.setdefault(name, []).append(cls)
    return found


def add_sampler(command: argparse.ArgumentParser) -> None:
    """Flags of every setting of every sampler."""
    group = command.add_argument_group(
        "sampler",
        "A preset and changes to it; the value of each preset is in brackets.",
    )
    text = f"preset to start from (default: direct with {small.SPEECH_16}, else fast)"
    group.add_argument("--preset", choices=PRESETS, help=text)
    values = {name: to_dict(preset) for name, preset in PRESETS.items()}
    for name, classes in sampler_settings_by_name().items():
        own = {preset: _shown(each[name]) for preset, each in values.items() if name in each}
        note = ", ".join(f"{preset} {value}" for preset, value in own.items())
        if len(own) == len(PRESETS) and len(set(own.values())) == 1:
            note = next(iter(own.values()))
        whose = "" if SamplerConfig in classes else ", ".join(cls.name for cls in classes) + ": "
        text = f"{whose}{meaning(classes[0], name)}{f' [{note}]' if note else ''}"
        _add_setting(group, classes[0], name, text)


def add_execution(command: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Flags of SeparationConfig: all, or the named settings."""
    group = command.add_argument_group("how to compute; results change by rounding only")
    defaults = to_dict(SeparationConfig())
    for name in names or defaults:
        text = f"{meaning(SeparationConfig, name)} (default: {_shown(defaults[name])})"
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


def sampler_settings(arguments: argparse.Namespace, prior: Path | None) -> SamplerConfig:
    """The preset, that of `prior` unless it is given, changed as the flags say; raises DavssError
    naming the flag at fault.
    """
    changes = given(arguments, sampler_settings_by_name())
    values = to_dict(PRESETS[arguments.preset or small.preset_of(prior)])
    known = names_of(SAMPLERS[changes.get("name", values["name"])])
    return parse_flags(
        SamplerConfig, {key: values[key] for key in values if key in known} | changes
    )


def execution_settings(arguments: argparse.Namespace) -> SeparationConfig:
    """How to compute, as the flags say."""
    return parse_flags(SeparationConfig, given(arguments, names_of(SeparationConfig)))


def parse_flags(settings: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Settings from flags; raises DavssError naming the flag at fault."""
    try:
        return parse(settings, values)
    except DavssError as error:
        named = re.match(r"key '(\w+)'(?: =)?(.*)", str(error))
        if named is None:
            raise
        raise DavssError(f"--{named[1].replace('_', '-')}{named[2]}") from None
