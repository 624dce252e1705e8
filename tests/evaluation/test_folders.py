"""`davss score`: which files belong together, what is wrong with them, and what comes of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile

from davss.cli import main
from davss.errors import DavssError
from davss.evaluation import folders, metrics

RATE, LENGTH = 16_000, 16_000


def sound(seed: int, length: int = LENGTH) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(length)


def write(path: Path, audio: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype="FLOAT")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(*flags: str) -> None:
    given = ["--estimates", "est", "--references", "ref", "--metrics", "none", "--processes", "1"]
    main(["score", *given, *flags])


def table(*flags: str) -> pandas.DataFrame:
    score("--csv", "rows.csv", *flags)
    return pandas.read_csv("rows.csv").set_index(["name", "source"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.wav", ("a", "speaker_1")),
        ("x/a.b.wav", ("x/a.b", "speaker_1")),
        ("Mu\u0308ller/s2.wav", ("M\u00fcller", "speaker_2")),  # as macOS writes it
        ("a/speaker_2.wav", ("a", "speaker_2")),
        ("x/a/NOISE.flac", ("x/a", "noise")),
        ("s2/x/a.wav", ("x/a", "speaker_2")),
        ("noise.wav", ("noise", "speaker_1")),
        ("spk3/s1.wav", ("spk3", "speaker_1")),
    ],
)
def test_a_path_says_which_recording_and_source_it_is(path, expected):
    assert folders.place_of(Path(path)) == expected


def test_speakers_are_assigned_by_the_best_order_and_scored_as_everywhere(place):
    references = np.stack([sound(0), sound(1), sound(2)])
    mixture = references.sum(0)
    estimates = references + 0.1 * mixture + 0.03 * np.stack([sound(4), sound(5), sound(6)])
    for name, own in zip(("s1", "s2", "noise"), references, strict=True):
        write(place / "ref" / name / "a.wav", own)
    for name, own in zip(("speaker_2", "speaker_1", "noise"), estimates, strict=True):
        write(place / "est" / "a" / f"{name}.wav", own)
    write(place / "mix" / "a.wav", mixture)
    rows = table("--mixtures", "mix")
    expected = metrics.score_sources(estimates, references, mixture, RATE, perceptual=False)
    for row in expected:
        own = rows.loc[("a", row["source"])]
        for name in ("si_sdr", "si_sdri", "si_sir", "si_sar", "si_sdr_other"):
            assert own[name] == pytest.approx(row[name], abs=1e-3, nan_ok=True)
    assert rows.loc[("a", "speaker_1")].estimate.endswith("speaker_2.wav")
    swapped = table("--in-order")
    assert (swapped.si_sdr.iloc[:2] < 0).all() and swapped.si_sdr.iloc[2] > 15
    assert swapped.si_sdri.isna().all(), "there are no mixtures"


def test_what_is_wrong_with_a_file_is_told_in_its_row_and_spoils_no_other(place, capsys):
    broken = sound(9)
    broken[5] = math.nan
    bad = {
        "shorter": (sound(0), sound(0)[:-10], RATE),
        "rate": (sound(1), sound(1), 8000),
        "silent": (sound(2), 0 * sound(2), RATE),
        "hole": (broken, sound(9), RATE),
        "stereo": (np.stack([sound(3), sound(4)], 1), sound(3), RATE),
        "good": (sound(5) + 0.1 * sound(6), sound(5), RATE),
    }
    for name, (estimate, reference, rate) in bad.items():
        write(place / "est" / f"{name}.wav", estimate)
        write(place / "ref" / f"{name}.wav", reference, rate)
    write(place / "est" / "extra.wav", sound(7))
    write(place / "ref" / "missing.wav", sound(8))
    (place / "est" / "broken.wav").write_bytes(b"RIFF")
    write(place / "ref" / "broken.wav", sound(8))
    with pytest.raises(SystemExit) as ended:
        table()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "8 of 9 sources were not scored" in said and "Traceback" not in said
    rows = pandas.read_csv("rows.csv").set_index("name")
    assert len(rows) == 9 and rows.si_sdr.notna().sum() == 1 and math.isnan(rows.error.get("good"))
    reasons = {
        "shorter": r"est/shorter.wav: 16000 samples, but ref/shorter.wav has 15990",
        "rate": "16000 Hz, but ref/rate.wav has 8000 Hz",
        "silent": "reference is silent",
        "hole": "NaN or infinite",
        "stereo": "2 channels",
        "extra": "no reference",
        "missing": "no estimate",
        "broken": "est/broken.wav",
    }
    for name, reason in reasons.items():
        assert reason in rows.error[name], name
        assert f"note: {name} (speaker_1): " in said


def test_a_missing_source_leaves_the_others_of_its_recording(place):
    for index in (1, 2, 3):
        write(place / "ref" / "a" / f"s{index}.wav", sound(index))
    write(place / "est" / "a" / "s1.wav", sound(3) + 0.1 * sound(8))
    write(place / "est" / "a" / "s2.wav", sound(1) + 0.1 * sound(9))
    with pytest.raises(SystemExit):
        table()
    rows = pandas.read_csv("rows.csv").set_index("source")
    assert rows.si_sdr[["speaker_1", "speaker_3"]].between(19, 21).all()
    assert math.isnan(rows.si_sdr["speaker_2"]) and rows.error["speaker_2"] == "no estimate"
    assert rows.si_sir.notna().sum() == 2, "the missing one interferes all the same"


def test_json_has_means_and_rows_and_nothing_that_is_no_json(place, capsys):
    for name in ("a", "b"):
        write(place / "ref" / f"{name}.wav", sound(1))
    write(place / "est" / "a.wav", sound(1) + 0.1 * sound(2))
    write(place / "est" / "b.wav", 0 * sound(1))
    score("--json")
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [row["si_sdr"] is None for row in found["rows"]] == [False, True]
    assert found["means"][0]["metric"] == "si_sdr" and found["means"][0]["recordings"] == 1


def test_the_table_has_means_with_intervals(place, capsys):
    for name in "abc":
        write(place / "ref" / f"{name}.wav", sound(ord(name)))
        write(place / "est" / f"{name}.wav", sound(ord(name)) + 0.1 * sound(2))
    score()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["source", "metric", "mean", "±", "median", "recordings"]
    source, metric, mean, _, _, count = lines[1].split()
    assert (source, metric, count) == ("speech", "si_sdr", "3") and 19 < float(mean) < 21


@pytest.mark.slow
def test_several_processes_give_the_same_rows(place, monkeypatch):
    for index in range(2 * folders.WORTH_A_PROCESS):
        write(place / "ref" / f"{index:02d}.wav", sound(index, 800))
        write(place / "est" / f"{index:02d}.wav", sound(index, 800) + sound(99, 800))
    recordings = folders.match(Path("est"), Path("ref"))
    alone, many = (
        folders.score_folders(recordings, perceptual=False, num_processes=count) for count in (1, 2)
    )
    pandas.testing.assert_frame_equal(alone, many)


def test_refusals(place, capsys):
    write(place / "ref" / "a.wav", sound(0))
    with pytest.raises(SystemExit):
        score()
    assert "est: no such folder" in capsys.readouterr().err
    (place / "est").mkdir()
    with pytest.raises(SystemExit):
        score()
    assert "est: no recording in this folder" in capsys.readouterr().err
    write(place / "est" / "b.wav", sound(0))
    with pytest.raises(DavssError, match="no file has the same name in both, such as b and a"):
        folders.match(Path("est"), Path("ref"))
    write(place / "est" / "x" / "s1.wav", sound(0))
    write(place / "est" / "s1" / "x.wav", sound(0))
    with pytest.raises(DavssError, match="both are speaker_1 of x; leave one out"):
        folders.match(Path("est"), Path("ref"))


def test_a_table_replaces_no_folder_and_no_recording(place, capsys):
    for folder in ("est", "ref"):
        write(place / folder / "a.wav", sound(0))
    before = (place / "est" / "a.wav").read_bytes()
    for name, why in (
        ("est", "a folder"),
        ("est/a.wav", "the name of a recording"),
        ("/dev/null/a.csv", "cannot be written"),
    ):
        with pytest.raises(SystemExit):
            score("--csv", name)
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and f"error: --csv {name}: {why}" in said
    assert (place / "est" / "a.wav").read_bytes() == before


def test_what_is_not_installed_is_said_in_one_line(place, capsys, monkeypatch):
    from davss.evaluation import listeners

    monkeypatch.setitem(listeners.PACKAGES, "dnsmos", ("no_such_package",))
    write(place / "ref" / "a.wav", sound(0))
    write(place / "est" / "a.wav", sound(0) + sound(1))
    with pytest.raises(SystemExit):
        score("--metrics", "dnsmos")
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "not installed: dnsmos (no_such_package)" in said
    monkeypatch.setitem(listeners.PACKAGES, "words", ("no_such_package",))
    monkeypatch.setitem(listeners.PACKAGES, "speaker", ("no_such_package",))
    main(["score", "--estimates", "est", "--references", "ref", "--processes", "1"])
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: not")]
    assert len(notes) == 1 and "dnsmos (no_such_package)" in notes[0]


def test_what_the_means_leave_out_is_told(place, capsys):
    for name, estimate in {
        "a": sound(1) + sound(2),
        "copy": sound(1),
        "mute": 0 * sound(1),
    }.items():
        write(place / "ref" / f"{name}.wav", sound(1))
        write(place / "est" / f"{name}.wav", estimate)
    rows = table()
    out, err = capsys.readouterr()
    assert rows.si_sdr["mute", "speaker_1"] == -math.inf and out.split()[-1] == "1"
    assert "note: copy (speaker_1): est/copy.wav: an exact copy of its reference; its" in err
    assert "note: mute (speaker_1): est/mute.wav: silent; its infinite scores do not count" in err
