"""Which code decides a result: a stage's module with all that it imports, found in the sources.

What the storage keeps is not taken for the result of other code, and `pipelines.code` writes the
same files into dvc.yaml.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("davss", "pipelines")
# Modules, or packages, that carry, start, watch and tell. Settings enter digests by their values.
DECIDES_NOTHING = (
    *("davss.code", "davss.config", "davss.cores", "davss.errors", "davss.params_file"),
    "davss.ray_session",
    *("davss.profiling", "davss.storage"),
    *("davss.training.progress", "davss.training.reporter", "davss.training.separation"),
    *("davss.training.tracking", "davss.training.watchdog"),
    *("pipelines.compose", "pipelines.plan_training"),
)


def closure(*modules: str) -> dict[str, Path]:
    """File by name of the modules and all of this repository that they import, wherever in the
    file, sorted; without what DECIDES_NOTHING, and what that alone imports.
    """
    found: dict[str, Path] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        path = None if name in found or _decides_nothing(name) else module_file(name)
        if path is not None:
            found[name] = path
            todo += _imported(path)
    return dict(sorted(found.items()))


def code_digest(*modules: str) -> str:
    """SHA-256 of the names and sources of the modules' `closure`."""
    state = hashlib.sha256()
    for name, path in closure(*modules).items():
        state.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return state.hexdigest()


def module_file(name: str) -> Path | None:
    """The file of a module or package below PACKAGES; None for anything else."""
    top, *parts = name.split(".")
    folder = _folder(top) if top in PACKAGES and parts else None
    if folder is None:
        return None
    path = folder.joinpath(*parts)
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _decides_nothing(name: str) -> bool:
    return f"{name}.".startswith(tuple(f"{other}." for other in DECIDES_NOTHING))


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _imported(path: Path) -> Iterator[str]:
    """Modules that a file names in its imports; the packages around them are not among them."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if module_file(name)]
            yield from modules
            if len(modules) < len(inner):
                yield node.module
