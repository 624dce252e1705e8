"""Where the storage lies, in experiments that DVC runs in a copy of the repository, too."""

from __future__ import annotations

import pytest

from davss.storage import LocalStore, open_storage


@pytest.mark.parametrize("below", [".", "report"])
@pytest.mark.parametrize("given", [None, "st", "ABSOLUTE"])
def test_experiments_in_a_copy_use_the_storage_of_the_workspace(
    tmp_path, monkeypatch, below, given
):
    absolute = tmp_path / "elsewhere"
    monkeypatch.delenv("DAVSS_STORAGE", raising=False)
    if given is not None:
        monkeypatch.setenv("DAVSS_STORAGE", given.replace("ABSOLUTE", str(absolute)))
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpx1" / below
    copy.mkdir(parents=True)
    expected = absolute if given == "ABSOLUTE" else tmp_path / (given or "storage")
    for folder in (tmp_path, copy):
        monkeypatch.chdir(folder)
        assert open_storage() == LocalStore(expected)
