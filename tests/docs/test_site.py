"""The documentation site, built as by `make docs`, and what its hooks make of the sources."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

pytest.importorskip("mkdocs")

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs/hooks"))

import elsewhere  # noqa: E402
import parameters  # noqa: E402
import reference  # noqa: E402

from davss.config import SAMPLERS  # noqa: E402
from pipelines.compose import SECTIONS  # noqa: E402


def settings(kind):
    """A dataclass with those inside it."""
    yield kind
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.default):
            yield from settings(type(field.default))


def test_every_parameter_is_described():
    kinds = [kind for section in SECTIONS.values() for kind in (section, *get_args(section))]
    kinds = [*filter(dataclasses.is_dataclass, kinds), *SAMPLERS.values()]
    page = parameters.page()
    for kind in {each for one in kinds for each in settings(one)}:
        for field in dataclasses.fields(kind):
            if not dataclasses.is_dataclass(field.default):
                assert f"{field.name}` |" in page, field.name
    empty = [line for line in page.splitlines() if re.fullmatch(r"\| `.*\| *\|", line)]
    assert not empty


def test_a_parameter_has_its_type_and_default():
    page = parameters.page()
    assert "| `num_steps` | integer from 1 | `400` | noise levels;" in page
    assert "| `training.augment.sum_db` | [number, number] | `[-15.0, 0.0]` |" in page
    assert '`eigenlips`, `lipsound`, `braven` | `"eigenlips"` |' in page
    assert page.count("| `zeta` |") == page.count("| `inner_noise` |") == 1


def test_the_public_interface_is_there():
    for name, place in reference.PUBLIC.items():
        module, _, attribute = place.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        if name.startswith("davss."):
            module, _, attribute = name.rpartition(".")
            assert getattr(importlib.import_module(module), attribute) is found
        assert reference.summary(place)


def test_links_to_the_repository_become_links_of_the_site():
    def there(text, origin="docs/a/b.md", here="a/b.md"):
        return elsewhere.LINK.sub(lambda link: elsewhere.site_link(link, here, origin), text)

    assert there("[x](../usage.md#y)") == "[x](../usage.md#y)"
    assert there("[x](../../LICENSE)") == "[x](../licence.md)"
    assert there("[`x`](../../davss/posterior/dps.py)") == "[`x`][davss.posterior.dps]"
    assert there("[x](docs/usage.md)", "README.md", "start.md") == "[x](usage.md)"
    assert there("[x](https://a.org/b) [x](#c)") == "[x](https://a.org/b) [x](#c)"
    with pytest.raises(elsewhere.PluginError, match="docs/a/b.md: links to nowhere.md"):
        there("[x](nowhere.md)")
    with pytest.raises(elsewhere.PluginError, match="no page for"):
        there("[x](../../dvc.yaml)")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.name: path.read_text() for path in (tmp_path / "site").glob("*.html")}
    for name, text in pages.items():
        assert not re.search(r'<(script|img|iframe|audio)[^>]*src="(https?:)?//', text), name
        assert not re.search(r'<link[^>]*rel="stylesheet"[^>]*href="(https?:)?//', text), name
    # the method leads to the functions, the reference back to the method
    assert 'href="reference/posterior.html#davss.posterior.dps.dps"' in pages["method.html"]
    posterior = (tmp_path / "site/reference/posterior.html").read_text()
    assert 'href="../method.html#4-posterior-sampling-algorithm-1"' in posterior
    # only relative links were checked by mkdocs: lists and tables are no text
    for name, text in pages.items():
        prose = re.sub(r"<(pre|code)\b.*?</\1>", "", text, flags=re.DOTALL)
        stray = re.findall(r"<p>(?:(?!</p>).)*?^(?:[*-] |\|)[^<]*", prose, re.M | re.S)
        assert not stray, (name, stray[0][-80:])


def test_every_equation_has_its_function():
    text, _, table = (ROOT / "docs/method.md").read_text().partition("## 12.")
    equations = re.findall(r"\((\d+)\)(?: +[PLR].*)?$|\((24)\)", text, re.MULTILINE)
    assert len(equations) > 30
    first_column = re.findall(r"^\| (\(.*?) \|", table, re.MULTILINE)
    named = re.findall(r"\((\d+)\)", " ".join(first_column))
    assert sorted(named) == sorted({one or other for one, other in equations})
    for name in re.findall(r"`(davss\.[\w.]+)`", table):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
