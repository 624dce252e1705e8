"""dvc.yaml under the real DVC, with stub stages: what runs when, and what reaches the stages."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.code import with_code
from pipelines.compose import compose

ROOT = Path(__file__).parents[2]
DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = {name: stage.get("do", stage) for name, stage in DVC_YAML["stages"].items()}
COMPARED = [f"{n}-{c}" for n in ("wham", "nmf", "gaussian", "none") for c in ("wham", "dns")]
DEMO = [
    *("demo_corpus@demo", "shards@voxceleb2", "shards@wham", "shards@dns"),
    *("mixtures@wham", "mixtures@dns", "train_speech", "train_noise@wham"),
    *(f"{stage}@{each}" for stage in ("separate", "score") for each in COMPARED),
    "report",
]
NOISES = ("wham", "nmf")
FEW = [f"noise_models=[{','.join(NOISES)}]", "conditions=[wham]"]  # each stage takes a second
STUB = """
import json, sys
from pathlib import Path

import yaml

name, args = Path(__file__).stem, sys.argv[1:]
text = Path("params.yaml").read_text()
corpora = yaml.safe_load(text)["corpora"].values()
files = {
    "demo_corpus": [f"{corpus['root']}/clip" for corpus in corpora],
    "shards": [f"data/shards/{'-'.join(args)}/train.parquet"],
    "mixtures": [f"data/mixtures/{'-'.join(args)}.parquet"],
    "train_prior": [
        f"data/priors/{'-'.join(args)}/config.json",
        f"data/training/{'-'.join(args)}/metrics.json",
        f"data/training/{'-'.join(args)}/history.csv",
    ],
    "separate": [f"data/estimates/{'-'.join(args)}.parquet"],
    "score": [f"data/scores/{'-'.join(args)}.parquet"],
    "report": [
        *("report/index.html", "report/metrics.json", "report/scores.json"),
        "report/plots/sources.csv",
    ],
}[name]
for file in map(Path, files):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"text": text}))
    if file.suffix == ".csv":
        file.write_text("samples_seen,valid_loss,si_sdr_mixture,si_sdr\\n1,2,3,4\\n")
with open("log.txt", "a") as log:
    print(name, *args, file=log)
"""


def code_files():
    """Every file of the repository that a stage depends on."""
    for name, stage in STAGES.items():
        for dep in stage["deps"]:
            if dep.startswith(("davss/", "pipelines/")):
                for key in ("voxceleb2", "speech", "wham", "dns") if "${key}" in dep else ("",):
                    yield name, dep.replace("${key}", key)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository with the committed DVC files and stub stages."""
    root = tmp_path_factory.mktemp("clone")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, root / name)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
    shutil.copytree(ROOT / "pipelines" / "conf", root / "pipelines" / "conf")
    (root / "pipelines" / "__init__.py").touch()
    for _, dep in code_files():
        path = root / dep
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text(STUB if dep.startswith("pipelines/") else "code\n")
        else:
            path.mkdir(exist_ok=True)
            (path / "file").write_text("data\n")
    with (root / ".gitignore").open("a") as file:
        file.write("/log.txt\n")
    for command in ("init -q", "add -A", "commit -q -m clone"):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *command.split()], cwd=root, check=True)
    return root


def dvc(root, *arguments, check=True):
    """Run DVC in `root`; its output and the stages that ran."""
    (root / "log.txt").write_text("")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_AUTHOR_NAME": "x",
        "GIT_AUTHOR_EMAIL": "x@example.org",
        "GIT_COMMITTER_NAME": "x",
        "GIT_COMMITTER_EMAIL": "x@example.org",
    }
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, output
    return output, (root / "log.txt").read_text().splitlines()


def status(root):
    command = ["git", "status", "--short"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def edit(root, file, old, new):
    path = root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_stages_depend_on_the_code_that_they_import():
    text = (ROOT / "dvc.yaml").read_text()
    assert with_code(text) == text, "run `python -m pipelines.code`"


def test_code_that_is_missing_or_gone_is_put_right():
    text = (ROOT / "dvc.yaml").read_text()
    wrong = text.replace("      - davss/posterior\n", "      - davss/posterior/gone.py\n")
    assert wrong != text and with_code(wrong) == text


def test_params_of_stages_exist():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, stage in STAGES.items():
        for key in stage.get("params", []):
            node = params
            for part in key.replace("${key}", "wham").split("."):
                assert part in node, f"{name}: {key}"
                node = node[part]


def test_the_committed_configuration_composes_with_hydra(clone):
    output, _ = dvc(clone, "config", "--list", "--project")
    assert "hydra.enabled=true" in output and "core.analytics=false" in output


def test_the_demo(clone):
    """Everything once, then nothing, then only what an edit or an experiment concerns."""
    listed, _ = dvc(clone, "stage", "list", "--name-only")
    assert listed.split() == DEMO
    (clone / "params.yaml").write_text(compose("demo", FEW))
    _, ran = dvc(clone, "repro")
    assert len(ran) == 12 and ran[0] == "demo_corpus" and ran[-1] == "report"
    assert status(clone) == " M params.yaml\n?? dvc.lock\n"

    output, ran = dvc(clone, "repro")
    assert not ran and "up to date" in output

    settings = [*FEW, "sampler.num_steps=7"]
    _, ran = dvc(clone, "exp", "run", *(part for one in settings for part in ("-S", one)))
    onward = [f"{stage} {noise} wham" for stage in ("score", "separate") for noise in NOISES]
    assert ran[-1] == "report" and sorted(ran[:-1]) == sorted(onward)
    assert (clone / "params.yaml").read_text() == compose("demo", settings)

    edit(clone, "davss/evaluation/metrics.py", "code", "edited")
    output, _ = dvc(clone, "repro", "--dry")
    ran = re.findall(r"^Running stage '(.*)'", output, re.MULTILINE)
    assert sorted(ran) == sorted(["report", *(f"score@{noise}-wham" for noise in NOISES)])

    output, _ = dvc(clone, "plots", "show", "--json")
    plots = json.loads(output)["data"]
    assert {"SI-SDR of sources", "data/training/speech/history.csv"} <= set(plots)


def test_the_paper_profile_without_its_corpora(clone):
    """One line names the missing root, and no stage runs, least of all that of the demo corpora."""
    output, ran = dvc(
        clone, "exp", "run", "-S", "profile=paper", "-S", "sampler.zeta=0.7", check=False
    )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1 and "data/raw/" in errors[0], output
    assert not ran
    assert (clone / "params.yaml").read_text() == compose("paper", ["sampler.zeta=0.7"])

    listed, _ = dvc(clone, "stage", "list", "--name-only")
    stages = listed.split()
    assert "demo_corpus@demo" not in stages
    assert {"train_noise@dns", "score@dns-wham", "score@wham-dns", "score@nmf-dns"} <= set(stages)
    assert "train_noise@nmf" not in stages


def test_an_unknown_key_is_named(clone):
    output, ran = dvc(clone, "exp", "run", "-S", "sampler.zetta=0.7", check=False)
    assert "sampler.zetta" in output and not ran
