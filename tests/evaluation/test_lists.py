"""Ready test lists: both forms, exactly those clips in the mixtures, nothing of a pickle run."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from davss.config import MixturesConfig
from davss.errors import DavssError
from davss.evaluation.lists import read_list
from davss.evaluation.mixtures import plan_mixtures, render, rows_of
from tests.evaluation.test_mixtures import RATE, Reader, make_reader

NAMES = [f"id{10 + index % 4}/Ab_-{index}/0000{index}" for index in range(8)]
PAIRS = [(NAMES[4], NAMES[1]), (NAMES[0], NAMES[7]), (NAMES[2], NAMES[3])]
CONFIG = MixturesConfig(per_num_speakers=6, seconds=2.0)


@dataclass(frozen=True)
class SourceReader(Reader):
    """Clips whose manifest names their sources, as a real one does."""

    @property
    def clips(self) -> pandas.DataFrame:
        return super().clips.assign(source=[f"test/mp4/{name}.mp4" for name in NAMES])


@pytest.fixture
def speech() -> Reader:
    made = make_reader("s", [3, 4, 2, 5, 3, 1, 4, 3], speakers=4, with_lips=True)
    return SourceReader(made.stored)


@pytest.fixture
def noise() -> Reader:
    return make_reader("n", [6, 10], speakers=1, with_lips=False)


def as_pickle(pairs) -> bytes:
    return pickle.dumps([{"identifier1": one, "identifier2": two} for one, two in pairs])


FORMS = {
    "flowavse": as_pickle(PAIRS),
    "text": "\n".join(f"{one} {two}" for one, two in PAIRS).encode(),
    "Excel": "\r\n".join(f'"{one}";"{two}"' for one, two in PAIRS).encode("utf-8-sig"),
    "PowerShell": "\r\n".join(f"{one},{two}" for one, two in PAIRS)
    .replace("/", "\\")
    .encode("utf-16"),
    "csv": "\r\n".join(f"/data/test/wav/{a}.wav, mp4/{b}.mp4\r\n" for a, b in PAIRS).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_mixtures_are_of_the_clips_of_the_list(form, speech, noise, tmp_path):
    path = tmp_path / "list"
    path.write_bytes(FORMS[form])
    plan = plan_mixtures(speech, noise, replace(CONFIG, list=str(path)), "wham", seed=0)
    keys = [[f"s-{NAMES.index(name)}" for name in pair] for pair in PAIRS]
    assert list(plan.speech_keys) == keys
    assert list(plan.key) == ["wham-k2-0000", "wham-k2-0001", "wham-k2-0002"]
    for row in rows_of(plan):
        mixture = render(row, speech, noise)
        assert mixture.mixture.shape == (2 * RATE,)
        level = 20 * np.log10(np.sqrt(np.mean(np.square(mixture.mixture))))
        assert abs(level + 25) < 0.1 and row["sir_db"] in {0.0, 5.0} and 0 <= row["snr_db"] <= 10


class Malicious:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("was-here",)


BAD = {
    "unknown": (f"{NAMES[0]} {NAMES[1]}\nid99/x/00001 {NAMES[1]}\n".encode(), "line 2: id99/x/000"),
    "short": (f"{NAMES[4]} {NAMES[5]}".encode(), f"line 1: {NAMES[5]} is shorter than a mixture; "),
    "one": (f"\n{NAMES[0]}\n".encode(), "line 2: expected two clips"),
    "three": (" ".join(NAMES[:3]).encode(), "line 1: expected two clips"),
    "no clip": (b"hello world", "line 1: expected two clips"),
    "itself": (f"{NAMES[0]} wav/{NAMES[0]}.wav".encode(), "line 1: a clip with itself"),
    "empty": (b"\n", "names no mixture"),
    "no text": (b"\xff\xfe\x00", "neither text nor a list of FlowAVSE"),
    "malicious": (pickle.dumps([Malicious()]), "not a plain pickled list"),
    "cut pickle": (as_pickle(PAIRS)[:40], "not a plain pickled list"),
    "other pickle": (pickle.dumps({"a": 1}), "not a plain pickled list"),
    "numbers": (pickle.dumps([1]), "line 1: expected two clips"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_list_is_refused(bad, speech, noise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = BAD[bad]
    Path("list").write_bytes(content)
    with pytest.raises(DavssError) as caught:
        plan_mixtures(speech, noise, replace(CONFIG, list="list"), "wham", seed=0)
    said = str(caught.value)
    assert said.startswith("list: ") and message in said and "\n" not in said
    assert not Path("was-here").exists(), "code of a list was run"


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(DavssError, match=r"none: cannot be read \(No such file.*set mixtures.list"):
        read_list(tmp_path / "none")
