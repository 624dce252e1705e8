"""examples/read_shards.py reads what davss writes."""

import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples/read_shards.py"


def test_shards_are_read_without_davss(corpus, capsys, monkeypatch):
    manifest = corpus.manifests / "test.parquet"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(manifest), str(corpus.storage)])
    runpy.run_path(str(SCRIPT))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and all("(19200,) 8000 (60, 6) id" in line for line in lines)
