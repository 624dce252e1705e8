"""The page of parameters, made of the settings that davss and its pipelines read.

What a setting means is the string below its field, or the comment behind it; of a section that is
no dataclass, the comment in pipelines/conf/config.yaml.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from davss.config import SAMPLERS, CorpusConfig, SamplerConfig, meaning
from pipelines.compose import CONF, SECTIONS

INTRODUCTION = """# Parameters

Every key of `params.yaml`, which is composed from `pipelines/conf`
([how to change it](experiment.md#change-something)). A key that is left out has the default given
here, which is the paper's; the profiles demo, small and small16 have values of their own. An
unknown key, or one of another type, is one line when a stage starts. The settings of `sampler` and
`separation` are flags of `davss separate` too (`num_steps` is `--num-steps`).

"""
HEAD = "| key | type | default | |\n|---|---|---|---|\n"
NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}
SIGNS = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, "parameters.md", content=page()))
    return files


def page() -> str:
    """All sections of params.yaml: lists and numbers in one table, dataclasses in one each."""
    text = (CONF / "config.yaml").read_text()
    values = yaml.safe_load(text)
    rows = [row("profile", SECTIONS["profile"], "demo", "the one that the others are from")]
    tables: dict[type, tuple[list[str], str]] = {}
    for name, kind in SECTIONS.items():
        settings = next(filter(dataclasses.is_dataclass, (kind, *get_args(kind))), None)
        if settings is None and name in values:
            comment = re.search(rf"^{name}:.*# (.*)$", text, re.MULTILINE)
            rows.append(row(name, kind, values[name], comment[1] if comment else ""))
        elif settings is not None:
            prefix = "NAME." if settings is CorpusConfig else ""
            tables.setdefault(settings, ([], table(settings, prefix)))[0].append(name)
    parts = [INTRODUCTION + HEAD + "".join(rows)]
    parts += [f"## {', '.join(names)}\n\n{shown}" for names, shown in tables.values()]
    return "\n".join(parts)


def table(settings: type, prefix: str) -> str:
    """A dataclass: what it says of itself, and its fields; of samplers what each has besides."""
    text = f"{prose(settings)}\n\n{HEAD}{''.join(rows_of(settings, prefix))}"
    if settings is not SamplerConfig:
        return text
    common = {field.name: field.default for field in dataclasses.fields(SamplerConfig)}
    own = {
        name: "".join(rows_of(cls, "", common | {"name": name})) for name, cls in SAMPLERS.items()
    }
    return text + "".join(
        f"\n### {name}\n\n{prose(SAMPLERS[name])}\n\n{HEAD}{rows}" for name, rows in own.items()
    )


def prose(settings: type) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(settings) or "").split("\n\n")[0].split())


def rows_of(settings: type, prefix: str, common: dict[str, Any] | None = None) -> Iterator[str]:
    """A line for every field, of dataclasses inside too; none for what is as in `common`."""
    hints = get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        key = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from rows_of(hints[field.name], f"{key}.")
        elif common is None or common.get(field.name, ...) != field.default:
            yield row(key, hints[field.name], field.default, description(settings, field.name))


def description(settings: type, name: str) -> str:
    """What is written below or behind a field."""
    if text := meaning(settings, name):
        return " ".join(text.split())
    source = inspect.getsource(settings)
    comment = re.search(rf"^    {name}: .*  # (.*)$", source, re.MULTILINE)
    return comment[1] if comment else ""


def row(key: str, kind: Any, default: Any, text: str) -> str:
    """A line of a table; a setting without a default has to be given."""
    shown = "" if default is dataclasses.MISSING else f"`{json.dumps(default, ensure_ascii=False)}`"
    return f"| `{key}` | {described(kind)} | {shown} | {text} |\n"


def described(kind: Any) -> str:
    """A type in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [limit for each in args[1:] for limit in getattr(each, "metadata", [])]
        words = (f"{SIGNS[n]} {v:g}" for limit in limits for n, v in vars_of(limit))
        return " ".join([described(args[0]), *words])
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in choices(kind))
    if origin in (Union, UnionType):
        return " or ".join("null" if each is NoneType else described(each) for each in args)
    if origin is tuple and args[-1] is not ...:
        return f"[{', '.join(map(described, args))}]"
    if origin in (list, tuple):
        return f"list of {described(args[0])}"
    return NAMES[kind]


def vars_of(limit: Any) -> list[tuple[str, Any]]:
    """The bounds of an annotation of pydantic."""
    return [(name, getattr(limit, name)) for name in SIGNS if hasattr(limit, name)]


def choices(kind: Any) -> list[Any]:
    """The values of a Literal, also of those inside it."""
    return [each for arg in get_args(kind) for each in (choices(arg) or [arg])]
