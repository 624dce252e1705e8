"""The notebook in examples/ runs, quickly, and finds what it says."""

import re
import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[2]
PATH = ROOT / "examples/separate.ipynb"


def test_no_outputs_are_kept():
    cells = nbformat.read(PATH, as_version=4).cells
    assert len(cells) <= 12
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_the_notebook_separates():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    start = time.process_time(), time.monotonic()
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    mixture, speech = (float(value) for value in re.findall(r"SI-SDR (-?[\d.]+) dB", text))
    assert speech > mixture + 4
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 1 and kinds.count("text/html") == 4
    assert time.monotonic() - start[1] < 120
