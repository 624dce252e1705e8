"""`davss separate` of a video: who is seen, who speaks, and which file is whose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import davss
from davss.cli import main
from davss.cli.faces import Cast, Face, find_cast
from davss.cli.inputs import read_lips, read_recording
from davss.diffusion.prior import save_prior
from davss.media.audio import read_audio
from davss.media.people import Person
from davss.media.video import Frames
from davss.networks.agreement import Verdict
from tests.media.making import RATE, noise, write
from tests.media.people import beside, person
from tests.priors import make_noise_prior, make_speech_prior

CORPORA = Path(__file__).parents[3] / "shared" / "corpora"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    save_prior(make_speech_prior(), folder / "speech")
    save_prior(make_noise_prior(), folder / "noise")
    pictures = beside(person(50, 3), person(50, 4, pace=2.7))
    write(folder / "two.mp4", pictures, noise(2.0))
    leaves = pictures.copy()
    leaves[25:, :, 224:] = 90
    write(folder / "leaves.mp4", leaves, noise(2.0))
    cuts = np.concatenate([person(30, 3), person(30, 4, pace=2.7), person(45, 3)[30:]])
    write(folder / "cuts.mp4", cuts, noise(3.0))
    write(folder / "one.mp4", person(50, 3), noise(2.0))
    write(folder / "still.mp4", np.repeat(person(1, 3), 50, 0), noise(2.0))
    write(folder / "none.mp4", np.full((50, 96, 96, 3), 90, np.uint8), noise(2.0))
    return folder


def separate(folder, name, out, *flags):
    main(
        ["separate", str(folder / name), "--out", str(out), "--num-steps", "2", "--device", "cpu"]
        + ["--speech-prior", str(folder / "speech"), "--noise-prior", str(folder / "noise")]
        + ["--num-samples", "1", *flags]
    )
    return json.loads((out / "separation.json").read_text())


def test_two_faces_are_two_speakers(folder, tmp_path, capsys):
    report = separate(folder, "two.mp4", tmp_path, "--off-screen", "1")
    names = ["speaker_1.wav", "speaker_2.wav", "speaker_3.wav", "noise.wav"]
    assert report["files"] == names and report["lips"] == [str(folder / "two.mp4")]
    assert [face["speaker"] for face in report["faces"]] == [1, 2]
    assert all(face["lips"] and face["times"] == [[0, 2]] for face in report["faces"])
    lefts = [face["boxes"][0][1] for face in report["faces"]]
    assert lefts[0] < 112 < 224 < lefts[1]
    for name in names:
        assert soundfile.info(tmp_path / name).frames == 2 * RATE


def test_of_a_face_that_leaves_half_way_the_rest_is_separated_without_lips(
    folder, tmp_path, capsys
):
    report = separate(folder, "leaves.mp4", tmp_path)
    assert [face["speaker"] for face in report["faces"]] == [1, 2]
    ((begins, ends),) = report["faces"][1]["times"]
    assert begins == 0 and abs(ends - 1.0) <= 0.08
    said = capsys.readouterr().err
    assert f"speaker_2: no face for {2 - ends:.2f} s, separated without lips there" in said
    assert "speaker_1: no face" not in said
    for name in report["files"]:
        assert soundfile.info(tmp_path / name).frames == 2 * RATE


def test_over_a_cut_a_speaker_is_known_again(folder, tmp_path, capsys):
    report = separate(folder, "cuts.mp4", tmp_path)
    times = [face["times"] for face in report["faces"]]
    assert times == [[[0, 1.2], [2.4, 3.0]], [[1.2, 2.4]]] and report["num_speakers"] == 2
    said = capsys.readouterr().err
    assert "speaker_1: no face for 1.20 s" in said and "speaker_2: no face for 1.80 s" in said


def test_a_face_is_left_out_by_hand(folder, tmp_path, capsys):
    faces = separate(folder, "two.mp4", tmp_path / "first")["faces"]
    faces[0]["speaker"] = None
    faces[1]["times"], faces[1]["lips"] = [[0.4, 1.6]], True
    (tmp_path / "faces.json").write_text(json.dumps(faces))
    flags = "--faces", str(tmp_path / "faces.json")
    report = separate(folder, "two.mp4", tmp_path / "second", *flags)
    assert report["num_speakers"] == 1
    assert [face["speaker"] for face in report["faces"]] == [None, 1]
    assert report["faces"][1]["times"] == [[0.4, 1.6]]
    assert "speaker_1: no face for 0.80 s" in capsys.readouterr().err


def test_the_page_names_the_recording_without_its_folder(folder, tmp_path, capsys):
    separate(folder, "still.mp4", tmp_path, "--preview")
    page = (tmp_path / "preview.html").read_text()
    assert "<li>still.mp4: a face from" in page and str(folder) not in page


def test_faces_given_back_as_they_are_change_nothing(folder, tmp_path, capsys):
    first = separate(folder, "two.mp4", tmp_path / "first")
    flags = "--faces", str(tmp_path / "first" / "separation.json")
    second = separate(folder, "two.mp4", tmp_path / "second", *flags)
    assert [face["speaker"] for face in second["faces"]] == [1, 2]
    assert second["num_speakers"] == first["num_speakers"] and second["lips"] == first["lips"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello", "faces.json: not JSON"),
        ("{}", "faces.json: no list of faces"),
        ("\ufeff{}", "faces.json: no list of faces"),  # as Notepad saves it
        ('[{"times": [[0, 1]]}]', "faces.json: face 0: give times"),
        ('[{"times": [[0, 1]], "boxes": [[0, 1, 2, 0, 0]]}]', "face 0: a box has no size"),
        ('[{"times": [[0, 1]], "boxes": [[0, 0, 0, 9, 9]]}]', "face 0: no face is found there"),
    ],
)
def test_faces_that_cannot_be_used_are_one_line(folder, tmp_path, capsys, content, message):
    (tmp_path / "faces.json").write_text(content, "utf-8")
    with pytest.raises(SystemExit):
        separate(folder, "two.mp4", tmp_path / "out", "--faces", str(tmp_path / "faces.json"))
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0]
    with pytest.raises(SystemExit):
        flags = "--faces", str(tmp_path / "faces.json"), "--speakers", "1"
        separate(folder, "two.mp4", tmp_path / "out", *flags)
    assert "without --lips and --speakers; leave" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.mp4", "none.mp4: no face is found; separated by its sound alone"),
        ("still.mp4", "is taken for no speaker: its mouth does not move"),
        ("still.mp4", "still.mp4: nobody is seen to speak; separated by its sound alone"),
    ],
)
def test_without_a_speaker_in_view_the_sound_is_separated_alone(
    folder, tmp_path, capsys, name, said
):
    report = separate(folder, name, tmp_path / "out")
    assert said in capsys.readouterr().err
    assert report["num_speakers"] == 1 and report["lips"] == []
    alone = separate(folder, name, tmp_path / "alone", "--speakers", "1")
    assert "faces" not in alone
    for file in report["files"]:
        found, expected = (soundfile.read(tmp_path / part / file)[0] for part in ("out", "alone"))
        np.testing.assert_array_equal(found, expected)


def test_one_speaker_whose_lips_do_not_help_has_the_prior_of_16_khz(folder, tmp_path, capsys):
    main(["separate", str(folder / "one.mp4"), "--out", str(tmp_path), "--device", "cpu"])
    report = json.loads((tmp_path / "separation.json").read_text())
    assert [(face["speaker"], face["lips"]) for face in report["faces"]] == [(1, False)]
    assert (report["speech_prior"], report["prior_sample_rate"]) == ("small16-speech", 16_000)
    assert report["sampler"]["name"] == "mean_field" and report["lips"] == []
    assert "one.mp4: speaker_1 without lips: to the speech prior" in capsys.readouterr().err


def test_one_face_is_what_it_was_as_a_face_video(folder):
    path, prior = folder / "one.mp4", make_speech_prior()
    cast = find_cast(path, prior, read_recording(path))
    assert cast.lips is not None
    np.testing.assert_array_equal(cast.lips[0], read_lips(path, prior, read_recording(path)))


def test_sources_are_in_the_order_of_the_faces():
    rng = np.random.default_rng(0)
    speed = rng.random((3, 250))
    loud = np.repeat(0.1 + speed, 320, axis=1)
    sounds = (loud * rng.standard_normal(loud.shape)).astype(np.float32)
    faces = [Face(Person(), True, 1.0, mouth=one[:, None]) for one in speed]
    faces[1].lips = np.zeros((250, 1))  # the separator's first
    order, said = Cast(faces).order(sounds[[1, 2, 0]], 8000)
    assert order == [2, 0, 1] and not said
    order, said = Cast(faces).order(np.repeat(sounds[1:2], 3, 0), 8000)
    assert order[1] == 0 and said == "whose voice is whose is not clear: speaker_1, speaker_3"


def test_how_late_a_picture_is_is_known_only_of_lips_that_explain_the_sound(folder):
    path = folder / "one.mp4"
    cast = find_cast(path, make_speech_prior(), read_recording(path))
    for correlation, late in ((0.03, None), (0.4, -0.36)):
        cast.faces[0].verdict = Verdict(correlation, 0.1, -9)
        assert cast.report()[0]["picture_late_by"] == late


def real_pair(path: Path) -> tuple[Path, np.ndarray]:
    """Two people of GRID in one picture, coffee-shop noise 5 dB below each; their voices (2, T)."""
    files = ["id10001/gridsone006/00043.mp4", "id10005/grid/00001.mp4"]
    clips = [CORPORA / "voxceleb2" / "test" / "mp4" / file for file in files]
    scene = CORPORA / "noise" / "coffee-shop--blanket_coffee-shop.flac"
    if not all(file.is_file() for file in [*clips, scene]):
        pytest.skip(f"no recordings of real people: {CORPORA}")
    voices = np.stack([read_audio(clip, RATE)[0][: 3 * RATE] for clip in clips])
    voices *= 0.05 / voices.std(1, keepdims=True)
    hum = read_audio(scene, RATE)[0][40_000:][: 3 * RATE]
    mixture = voices.sum(0) + 0.05 / hum.std() * 10 ** (-5 / 20) * hum
    pictures = beside(*(np.stack(list(Frames(clip)))[:75] for clip in clips))
    return write(path, pictures, mixture[None].astype(np.float32)), voices


def test_lips_that_the_prior_cannot_read_stay_out(tmp_path):
    path, _ = real_pair(tmp_path / "pair.mp4")
    recording, prior = read_recording(path), davss.load_prior("small-speech")
    cast = find_cast(path, prior, recording)
    known, stranger = cast.speakers
    assert isinstance(known.verdict, Verdict) and known.verdict.explains
    assert known.lips is not None and stranger.lips is None
    assert any("speaker_2 without lips: to the speech" in note for note in recording.notes)


@pytest.mark.slow
def test_two_real_people_side_by_side_are_separated(tmp_path):
    path, voices = real_pair(tmp_path / "pair.mp4")
    main(["separate", str(path), "--out", str(tmp_path / "out"), "--device", "cpu"])
    mixture = read_audio(path, 8000)[0]
    for number, voice in enumerate(voices):
        found = read_audio(tmp_path / "out" / f"speaker_{number + 1}.wav", 8000)[0]
        voice = read_audio(_wav(tmp_path / "voice.wav", voice), 8000)[0]
        length = min(len(found), len(voice), len(mixture))
        rest = [torch.from_numpy(one[:length].copy()) for one in (voice, found, mixture)]
        assert davss.si_sdr(rest[1], rest[0]) > davss.si_sdr(rest[2], rest[0]) + 1.5


def _wav(path: Path, audio: np.ndarray) -> Path:
    soundfile.write(path, audio, RATE)
    return path


def test_videos_and_a_page_beside_the_sources(folder, tmp_path, capsys):
    report = separate(folder, "two.mp4", tmp_path, "--mux", "--preview")
    assert report["files"][-3:] == ["speaker_1.mp4", "speaker_2.mp4", "preview.html"]
    assert read_audio(tmp_path / "speaker_2.mp4")[1] == RATE
    html = (tmp_path / "preview.html").read_text()
    assert html.count('class="face"') == 2 and html.count("<audio") == 4
    again = separate(folder, "two.mp4", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {*again["files"], "separation.json"}


def test_a_sound_has_no_picture_to_copy(folder, tmp_path, capsys):
    soundfile.write(tmp_path / "x.wav", noise()[0], RATE)
    with pytest.raises(SystemExit):
        separate(tmp_path, "x.wav", tmp_path / "out", "--mux", *places(folder))
    assert "x.wav: has no moving picture" in capsys.readouterr().err
    separate(tmp_path, "x.wav", tmp_path / "out", "--preview", *places(folder))
    assert "speaker_1" in (tmp_path / "out" / "preview.html").read_text()


def places(folder: Path) -> tuple[str, ...]:
    return ("--speech-prior", str(folder / "speech"), "--noise-prior", str(folder / "noise"))
