"""What an installation without extras can do, and how `make` and `pip` set davss up."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMPORTS = {"hydra-core": "hydra", "pillow": "PIL", "opencv-python-headless": "cv2"}
BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def imports(requirements):
    names = [re.match(r"[\w-]+", one).group(0) for one in requirements]
    return {IMPORTS.get(name, name).replace("-", "_") for name in names}


def run(tmp_path, *command):
    """Run Python where the packages of all extras are absent."""
    extras = PROJECT["project"]["optional-dependencies"]
    absent = imports(extras["workflow"]) - imports(PROJECT["project"]["dependencies"])
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(names=absent | {"botocore"}))
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, cwd=tmp_path
    )


def test_the_python_interface_needs_no_extra(tmp_path):
    lines = [
        "import davss, davss.posterior.likelihood, davss.networks, davss.media",
        "from davss.evaluation.metrics import score",
        "import torch",
        "for name in davss.__all__: getattr(davss, name)",
        "x = torch.randn(8000)",
        "reasons = {}",
        "assert score(x, x, x, 16000, reasons=reasons)['si_sdr'] > 90",
        "assert 'pesq is not installed' in reasons['pesq'] and 'pystoi' in reasons['estoi']",
        "davss.Separator.small(sampler=davss.SamplerConfig(num_steps=1))(x[None])",
        "assert 'scipy' not in __import__('sys').modules",
    ]
    done = run(tmp_path, "-c", "\n".join(lines))
    assert done.returncode == 0, done.stderr


def test_every_command_works_or_names_the_extra(tmp_path):
    shutil.copy(ROOT / "tests/data/README.md", tmp_path / "README.md")
    (tmp_path / "manifests").mkdir()
    done = run(tmp_path, "-m", "davss", "info", "small-speech")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "-m", "davss", "convert", "README.md", "out")
    assert "a text file" in done.stderr
    done = run(tmp_path, "-m", "davss", "validate", "manifests", "--storage", ".")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "needs the Python package" in done.stderr and "'.[workflow]'" in done.stderr


@pytest.fixture
def clone(tmp_path):
    """A tree with a space in its path, no Git repository, and a Python that only takes notes."""
    clone = tmp_path / "a b" / "davss"
    clone.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, clone / name)
    python = clone.parent / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> "{clone}/log"\n'
        'case "$*" in *pesq==*) exit 1;; esac\n'
        '[ "$2" != venv ] || { mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; }\n'
    )
    python.chmod(0o755)
    return clone


def make(clone, *targets):
    command = ["make", "-s", *targets, "PYTHON=../python", "GIT_DIR="]
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(clone.parent)}
    return subprocess.run(
        command, cwd=clone, capture_output=True, text=True, env=environment, timeout=60
    )


def test_make_env_in_a_path_with_a_space_and_without_a_compiler(clone):
    done = make(clone, "env")
    assert done.returncode == 0, done.stderr
    assert (clone / ".venv" / ".installed").exists()
    assert done.stderr.startswith("note: PESQ is left out") and done.stderr.count("\n") == 1
    assert (clone / "log").read_text().splitlines()[-1].endswith("-e .")


def test_make_repro_without_a_repository_says_so_before_anything_is_installed(clone):
    done = make(clone, "repro")
    assert done.returncode == 2 and "DVC needs a Git repository" in done.stderr
    assert not (clone / "log").exists() and not (clone / ".venv").exists()


def test_the_lock_holds_what_is_asked_for():
    """All requirements of davss, its workflow and its development, by name."""
    lock = {
        re.match(r"[\w.-]+", line).group(0).lower().replace("_", "-")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line and not line.startswith("#")
    }
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["project"]["dependencies"], *extras["workflow"], *extras["dev"]]
    names = {re.match(r"[\w.-]+", one).group(0).lower() for one in asked if ";" not in one}
    assert names <= lock, names - lock
