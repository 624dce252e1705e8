"""README and docs name nothing that is not there: files, modules, targets, stages, flags, keys."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from davss.cli import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "davss/small/MODEL_CARD.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FOLDERS = "davss|pipelines|cluster|tests|docs|benchmarks|examples"
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())

pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")


def code(text):
    """What a page sets as code, in blocks or between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*blocks, *re.findall(r"`([^`\n]+)`", prose)]


def options():
    """Subcommands of `davss` and the flags of each."""
    subparsers = next(a for a in build_parser()._actions if hasattr(a, "choices") and a.choices)
    return {name: set(p._option_string_actions) for name, p in subparsers.choices.items()}


@pages
def test_links_and_paths_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*\w", "\n".join(code(text)))
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


@pages
def test_modules_targets_and_stages_exist(page):
    text = "\n".join(code(page.read_text()))
    makefile = (ROOT / "Makefile").read_text()
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for module in re.findall(r"python -m ((?:pipelines|cluster|davss)\.\w+)", text):
        assert importlib.util.find_spec(module), module
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for command in re.findall(r"\b(?:dvc repro|cluster\.submit)((?: -\w+| [\w@-]+)+)", text):
        for name in (word for word in command.split() if not word.startswith("-")):
            assert name.partition("@")[0] in stages, name


@pages
def test_params_exist(page):
    for key in re.findall(r"-S ([\w.]+)=", page.read_text()):
        node = PARAMS
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_flags_of_davss_exist():
    known = options()
    text = (ROOT / "README.md").read_text() + (ROOT / "docs/usage.md").read_text()
    for command in re.findall(r"\bdavss ([a-z]+)\b[^`\n]*", "\n".join(code(text))):
        assert command in known, command
    # stages have flags of their own
    lines = [one for one in "\n".join(code(text)).splitlines() if "python -m pipelines" not in one]
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", "\n".join(lines)))
    unknown = flags - set.union(*known.values())
    assert flags and not unknown, unknown


@pages
def test_commands_of_davss_have_the_flags_they_are_given(page):
    known = options()
    for line in "\n".join(code(page.read_text())).replace("\\\n", " ").splitlines():
        for command, rest in re.findall(r"(?:^|`| )davss (\w+)\b([^|&#]*)", line):
            assert command in known, line
            rest, _, others = rest.partition(" -- ")  # davss serve -- FLAGS OF SEPARATE
            assert set(re.findall(r"--[a-z][a-z-]*", others)) <= known["separate"], line
            flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest))
            assert flags <= known[command], line


def test_sections_of_the_method_exist():
    sections = set(re.findall(r"^## (\d+)\.", (ROOT / "docs/method.md").read_text(), re.MULTILINE))
    files = [path for name in ("davss", "pipelines") for path in (ROOT / name).rglob("*.py")]
    for path in [*files, *PAGES]:
        named = re.findall(r"method\.md §(\d+)", path.read_text())
        assert set(named) <= sections, path


def test_python_in_the_pages_is_python():
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
            compile(block, page.name, "exec")
