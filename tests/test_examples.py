"""The scripts in examples/ run and find what they say."""

import re
import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def figures(capsys, name):
    """What an example prints in dB."""
    runpy.run_path(str(EXAMPLES / name))
    return [float(value) for value in re.findall(r"(-?[\d.]+) dB", capsys.readouterr().out)]


def test_an_array_is_separated(capsys):
    mixture, speech = figures(capsys, "separate_array.py")
    assert speech > mixture + 2


def test_own_sampler_and_denoiser(capsys):
    best, daps, own = figures(capsys, "own_sampler.py")
    assert best > daps > 5 and best > own > 4
