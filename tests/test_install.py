"""What an installation without extras can do, and how `make` and `pip` set davss up."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.media.making import noise, write
from tests.media.people import person

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMPORTS = {"hydra-core": "hydra", "pillow": "PIL", "opencv-python-headless": "cv2"}
BLOCK = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {names!r}
        return None if absent else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
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


def test_pyav_is_one_that_was_tested():
    """Its major versions differ: 16 has no `threads` of a reformatter, 17 other times in flv."""
    locked = re.search(r"^av==(\d+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert f"av>={locked[1]}" in PROJECT["project"]["dependencies"]


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
    noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "x.wav", noise, 8000)
    (tmp_path / "manifests").mkdir()
    for command in (
        "separate x.wav --out out --num-steps 1 --num-samples 1",
        "profile --nf 8 --dry-run",
    ):
        done = run(tmp_path, "-m", "davss", *command.split())
        assert done.returncode == 0, done.stderr
    for command in (
        "davss score --estimates . --references .",
        "davss validate manifests --storage .",
        "pipelines.report",
        "pipelines.shards wham",
        "cluster.submit shards",
    ):
        done = run(tmp_path, "-m", *command.split())
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
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
    """All requirements of davss and of what is made or tested here, by name."""
    lock = {
        re.match(r"[\w.-]+", line).group(0).lower().replace("_", "-")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line and not line.startswith("#")
    }
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = (extras[name] for name in ("workflow", "serve", "docs", "dev"))
    asked = [*PROJECT["project"]["dependencies"], *chain.from_iterable(wanted)]
    names = {re.match(r"[\w.-]+", one).group(0).lower() for one in asked if ";" not in one}
    assert names <= lock, names - lock


def test_the_face_models_are_those_described():
    """And in the package: the wheel takes all of the folder."""
    assert PROJECT["tool"]["setuptools"]["package-data"]["davss.media"] == ["models/*"]
    folder = ROOT / "davss/media/models"
    for model in folder.glob("*.tflite"):
        assert f"`{model.name}`" in (page := (folder / "README.md").read_text())
        assert hashlib.sha256(model.read_bytes()).hexdigest() in page


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A source distribution and the wheel made of it, and a Python that has what checks them."""
    folder = tmp_path_factory.mktemp("dist")
    python = folder / "tools" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "tools"], check=True)
    tools = [python, "-m", "pip", "install", "-q", "build", "twine", "check-wheel-contents"]
    if subprocess.run(tools, capture_output=True).returncode:
        pytest.skip("no package index: build, twine and check-wheel-contents cannot be installed")
    source = folder / "source"
    shutil.copytree(ROOT / "davss", source / "davss", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run([python, "-m", "build", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return python, *sorted((source / "dist").iterdir())


@pytest.mark.slow
def test_what_is_published_is_well_formed(dist):
    python, wheel, sdist = dist
    assert (wheel.suffix, sdist.suffix) == (".whl", ".gz")
    contents = ["check_wheel_contents", "--ignore", "W002", wheel]  # two priors share an encoder
    for command in (["twine", "check", "--strict", wheel, sdist], contents):
        done = subprocess.run([python, "-m", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert wheel.stat().st_size < 15e6, wheel.stat().st_size


@pytest.mark.slow
def test_the_wheel_alone_separates_sound_and_pictures(dist, tmp_path):
    """In an empty environment, with what it asks for and no more."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", python]
    command = [*uv, dist[1], "-c", ROOT / "requirements.lock"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the wheel's dependencies cannot be installed: {done.stderr[-200:]}")
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    write(tmp_path / "x.mp4", person(50, 3), noise(2.0))
    soundfile.write(tmp_path / "x.wav", noise(2.0)[0], 16000)
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
    for name, flags in (("x.wav", []), ("x.mp4", ["--mux", "--preview"])):
        out = tmp_path / f"out-{name}"
        command = [python, "-m", "davss", "separate", tmp_path / name, "--out", out, *flags]
        command += ["--num-steps", "1", "--num-samples", "1"]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert (out / "speaker_1.wav").is_file()
    assert json.loads((out / "separation.json").read_text())["faces"]
    where = [python, "-c", "import davss; print(davss.__file__, davss.__version__)"]
    done = subprocess.run(where, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert str(site) in done.stdout and PROJECT["project"]["version"] in done.stdout
