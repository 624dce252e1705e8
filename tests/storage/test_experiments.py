"""`dvc exp run --temp` and `--queue`, the real commands: a copy of the repository finds the storage
beside the original.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGE = """
stages:
  look:
    cmd: python look.py
    params: [number]
    outs: [found.txt]
"""
LOOK = """
import pathlib
from davss.storage import open_storage, open_storage
shard = open_storage().local("shards/x.tar").read_text()
pathlib.Path("found.txt").write_text(f"{shard} {open_storage().root}")
"""


@pytest.fixture
def run(tmp_path):
    """Commands in a repository of one stage, whose storage holds one shard."""
    folder = tmp_path / "a b"
    folder.mkdir()
    names = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t.invalid", "DVC_NO_ANALYTICS": "1"}
    names |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in names.items()}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DAVSS_")}
    environment |= names | {"PYTHONPATH": str(ROOT), "PATH": path}

    def command(*words):
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command("git", "init", "-q")
    command(sys.executable, "-m", "dvc", "init", "-q")
    files = {"dvc.yaml": STAGE, "look.py": LOOK, "params.yaml": "number: 1\n"}
    files |= {".gitignore": "/storage\n/found.txt\n", "storage/shards/x.tar": "a shard"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    command("git", "add", "-A")
    command("git", "commit", "-qm", "one stage")
    return folder, lambda *words: command(sys.executable, "-m", "dvc", *words)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["--temp", "--queue"])
def test_a_copy_finds_the_storage(run, way):
    folder, dvc = run
    dvc("exp", "run", way, "-n", "one", "-S", "number=2")
    if way == "--queue":
        dvc("exp", "run", "--run-all")
    assert "one" in dvc("exp", "list", "--name-only")
    dvc("exp", "apply", "one")
    assert (folder / "found.txt").read_text() == f"a shard {(folder / 'storage').resolve()}"
