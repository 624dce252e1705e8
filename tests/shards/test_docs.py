"""The examples of docs/shards.md do what the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/shards.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("word", "lines"), [("ShardReader", 1), ("WebDataset(", 12), ("ray.data", 12)]
)
def test_examples_run(corpus, tmp_path, word, lines):
    (example,) = (text for text in EXAMPLES if word in text)
    assert len(example.splitlines()) <= 12, "an example of ten lines, give or take"
    for name in ("voxceleb2", "wham"):
        shutil.copytree(corpus.manifests, tmp_path / "data/shards" / name)
    (tmp_path / "storage").symlink_to(corpus.storage)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "8000" in line]
    assert len(told) == lines and all("19200" in line for line in told)
