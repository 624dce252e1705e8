"""Which code decides a result: closures of imports, and digests that change with it."""

from __future__ import annotations

import pytest

from davss import code
from davss.code import closure, code_digest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `ours` with a stage, what it imports in four ways, and what it does not."""
    files = {
        "__init__": "import ours.unused",
        "stage": "import json, ours.plain\nfrom ours.sub import inner\nfrom ours.carry import go\n",
        "plain": "def late():\n    from ours.late import value\n",
        "late": "import ours.stage\nvalue = 1\n",
        "unused": "",
        "carry": "from ours.behind import go\n",
        "behind": "go = 1\n",
        "sub/__init__": "import ours.unused",
        "sub/inner": "from ours.names import name\n",
        "names/__init__": "name = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / "ours" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(code, "PACKAGES", ("ours",))
    monkeypatch.setattr(code, "DECIDES_NOTHING", ("ours.carry",))
    return tmp_path / "ours"


def test_closure(package):
    found = closure("ours.stage")
    assert list(found) == ["ours.late", "ours.names", "ours.plain", "ours.stage", "ours.sub.inner"]
    assert found["ours.names"] == package / "names" / "__init__.py"


def test_digest_changes_with_what_is_imported_and_with_nothing_else(package):
    before = code_digest("ours.stage")
    for name in ("unused", "carry", "behind", "sub/__init__"):
        (package / f"{name}.py").write_text("edited = 1\n")
    assert code_digest("ours.stage") == before
    for name in ("late", "names/__init__", "sub/inner"):
        with (package / f"{name}.py").open("a") as file:
            file.write("edited = 1\n")
        assert code_digest("ours.stage") != before
        before = code_digest("ours.stage")


def test_what_decides_nothing_exists():
    assert all(code.module_file(name) for name in code.DECIDES_NOTHING)


@pytest.mark.parametrize("module", ["pipelines.separate", "pipelines.training_job"])
def test_results_depend_on_how_shards_are_decoded(module):
    assert {"davss.shards.contract", "davss.shards.reader"} <= closure(module).keys()


def test_an_edit_to_a_metric_or_a_sampler_retrains_nothing():
    trained = " ".join(closure("pipelines.train_prior"))
    assert "davss.training.loop" in trained
    assert "davss.evaluation" not in trained and "davss.posterior" not in trained
