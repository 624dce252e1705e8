"""What a stage of dvc.yaml is to a cluster: a command, the files it needs, the outs it leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from davss.errors import DavssError

# Ray's limit on the zipped working directory is 512 MiB; weights and features hardly compress.
UPLOAD_LIMIT_MIB = 512


@dataclass(frozen=True)
class Stage:
    """One stage as DVC resolves it; deps with an absolute path or an URL are `external`."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    external: tuple[str, ...]
    outs: tuple[str, ...]


def read_stage(root: Path, name: str) -> Stage:
    """Stage `name` of the repository `root`, matrix and params filled in."""
    with _loaded(root, name) as stage:
        deps = [path for dep in stage.deps if (path := dep.def_path) != "params.yaml"]
        outs = [out.def_path for out in stage.outs]
        cmd = stage.cmd
    if not isinstance(cmd, str):
        raise DavssError(f"dvc.yaml: stage '{name}' has several commands; only one can be shipped")
    outside = tuple(dep for dep in deps if Path(dep).is_absolute() or "://" in dep)
    inside = tuple(dep for dep in deps if dep not in outside)
    return Stage(name=name, cmd=cmd, deps=inside, external=outside, outs=tuple(outs))


@contextmanager
def _loaded(root: Path, name: str) -> Iterator[Any]:
    """A stage as DVC has it; DavssError for what it says is wrong meanwhile."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.exceptions import StageFileDoesNotExistError, StageNotFound

    try:
        with Repo(str(root)) as repo:
            yield repo.stage.load_one(str(root / "dvc.yaml"), name)
    except (StageNotFound, StageFileDoesNotExistError):
        raise DavssError(f"dvc.yaml: no stage '{name}'; `dvc stage list` names them") from None
    except DvcException as error:
        raise DavssError(f"dvc.yaml: {' '.join(str(error).split())}") from None
    except PermissionError as error:
        mend = "correct its permissions, or set HOME to a folder of yours"
        raise DavssError(f"{error.filename}: {error.strerror}; {mend}") from None


def digest(root: Path, name: str, *more: str) -> str:
    """What decides the outs of stage `name`, as dvc.lock would have it (command, params, contents
    of the deps), and `more`.
    """
    from dvc.stage.serialize import to_single_stage_lockfile

    with _loaded(root, name) as stage:
        stage.save_deps()
        lock = to_single_stage_lockfile(stage)
    lock.pop("outs", None)
    text = json.dumps([lock, more], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def ship(stage: Stage, root: Path, folder: Path) -> None:
    """Copy what a job of `stage` needs into `folder`: the code as git sees it, and the deps.

    Git-ignored deps (manifests, priors) are shipped too, which Ray left to itself would not do.
    External deps are expected at the same path on the cluster.
    """
    for dep in stage.deps:
        if not (root / dep).exists():
            raise DavssError(f"{dep}: missing, and {stage.name} needs it; run the stages before it")
    files = [*_code(root), *_files(root, stage.deps)]
    sizes = {file: (root / file).stat().st_size for file in files}
    total = sum(sizes.values()) / 2**20
    if total > UPLOAD_LIMIT_MIB:
        raise DavssError(_too_large(stage, sizes, total))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / file, folder / file)


def commit(root: Path, name: str) -> None:
    """Record in dvc.lock that the stage has run."""
    done = subprocess.run([sys.executable, "-m", "dvc", "commit", "--force", name], cwd=root)
    if done.returncode:
        raise DavssError(f"dvc.lock: `dvc commit --force {name}` failed; run it by hand")


def _code(root: Path) -> list[str]:
    """Files that git tracks or would track, but for .gitignore: it would hide the deps from Ray."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise DavssError(f"{root}: not a git repository; run from the repository root") from None
    names = [name for name in done.stdout.split("\0") if name]
    return [n for n in names if Path(n).name != ".gitignore" and (root / n).is_file()]


def _files(root: Path, deps: tuple[str, ...]) -> list[str]:
    found = []
    for dep in deps:
        paths = sorted((root / dep).rglob("*")) if (root / dep).is_dir() else [root / dep]
        files = (p for p in paths if p.is_file() and p.parent.name != "__pycache__")
        found += [str(path.relative_to(root)) for path in files]
    return found


def _too_large(stage: Stage, sizes: dict[str, int], total: float) -> str:
    by_dep = {d: sum(s for f, s in sizes.items() if Path(f).is_relative_to(d)) for d in stage.deps}
    largest = max(by_dep, key=lambda dep: by_dep[dep])
    return (
        f"{stage.name}: {total:.0f} MiB to upload, {by_dep[largest] / 2**20:.0f} of them "
        f"{largest}; Ray takes {UPLOAD_LIMIT_MIB}. Put corpora on storage shared with the cluster "
        "and give their absolute path"
    )
