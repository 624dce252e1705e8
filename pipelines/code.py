"""The code that each stage depends on, found from what its module imports, into dvc.yaml.

    python -m pipelines.code

To be run after modules or imports have changed; a test holds dvc.yaml to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from davss.code import PACKAGES, closure
from davss.config import Corpus
from davss.storage import publish

ROOT = Path(__file__).parents[1]
READERS = {f"davss/corpora/{corpus}.py" for corpus in get_args(Corpus)}
READER = "davss/corpora/${key}.py"  # a corpus' shards depend on its own reader
_DEP = re.compile(rf"( +- )((?:{'|'.join(PACKAGES)})/[^ \n]+)")


def dependencies(module: str) -> list[str]:
    """What a stage's module depends on as dvc.yaml names it: files, or folders all of which count,
    relative to the repository.
    """
    files = {path.relative_to(ROOT).as_posix() for path in closure(module).values()}
    if files >= READERS:
        files = files - READERS | {READER}
    return sorted({_folder_or_file(file, files) for file in files})


def with_code(text: str) -> str:
    """dvc.yaml with the code of every stage as it should be; all else stays."""
    return "".join(_with_code(text.splitlines(keepends=True)))


def _with_code(lines: list[str]) -> Iterator[str]:
    missing: list[str] = []
    for line in lines:
        if command := re.match(r" +cmd: python -m (pipelines\.\w+)", line):
            missing = dependencies(command[1])
        found = _DEP.match(line)
        if found is None or not _is_code(found[2]):
            yield line
            continue
        yield from (f"{found[1]}{each}\n" for each in missing)
        missing = []


def _is_code(name: str) -> bool:
    path = ROOT / name
    return path.suffix == ".py" or not path.exists() or any(path.glob("*.py"))


def _folder_or_file(file: str, files: set[str]) -> str:
    """The outermost folder of `file` all of whose modules are among `files`, or else the file."""
    for folder in reversed(Path(file).parents[:-2]):
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
        if len(modules) > 1 and all(m in files or m.endswith("/__init__.py") for m in modules):
            return folder.as_posix()
    return file


def main() -> None:
    """Bring dvc.yaml up to date."""
    path = ROOT / "dvc.yaml"
    new = with_code(path.read_text(encoding="utf-8"))
    with publish(path) as temporary:
        temporary.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
