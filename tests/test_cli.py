"""`davss separate`, `info` and `validate` as their user runs them."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

import davss
from davss import cores
from davss.cli import application, build_parser, main
from davss.cli.application import set_threads
from davss.cli.flags import execution_settings, sampler_settings
from davss.config import (
    PRESETS,
    SAMPLERS,
    SamplerConfig,
    SeparationConfig,
    names_of,
    parse,
    to_dict,
)
from davss.diffusion.prior import save_prior
from davss.errors import ending_in_one_line
from tests.priors import make_noise_prior, make_speech_prior

PLACES = ["--speech-prior", "speech", "--noise-prior", "noise", "--out", "out"]
LONG = {"window_seconds": 8.0, "overlap_seconds": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    save_prior(make_speech_prior(), folder / "speech")
    save_prior(make_noise_prior(), folder / "noise")
    noise = 0.1 * np.random.default_rng(0).standard_normal(16001)
    soundfile.write(folder / "mix.wav", noise, 16000)
    soundfile.write(folder / "blip.wav", noise[:100], 16000)
    soundfile.write(folder / "silence.wav", np.zeros(16000), 16000)
    return folder


def arguments(folder, recording="mix.wav", **changes):
    flags = {
        "--speech-prior": str(folder / "speech"),
        "--noise-prior": str(folder / "noise"),
        "--out": str(folder / "out"),
        "--num-steps": "3",
        "--device": "cpu",
    } | changes
    flat = [part for item in flags.items() for part in item]
    return ["separate", str(folder / recording), *flat]


def test_separate_writes_what_it_says(folder, capsys):
    main(arguments(folder, **{"--speakers": "1", "--off-screen": "1", "--num-samples": "1"}))
    report = json.loads((folder / "out" / "separation.json").read_text())
    assert report["files"] == ["speaker_1.wav", "speaker_2.wav", "noise.wav"]
    assert report["sampler"]["num_steps"] == 3 and report["seconds"] == 16001 / 16000
    for name in report["files"]:
        audio, rate = soundfile.read(folder / "out" / name)
        assert (audio.shape, rate) == ((16001,), 16000)
    assert "speaker_1.wav" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recording", "changes", "message"),
    [
        ("missing.wav", {}, "missing.wav"),
        ("silence.wav", {}, "silence.wav: audio is silent"),
        ("mix.wav", {"--speech-prior": "nowhere"}, "nowhere: no prior here"),
        ("mix.wav", {"--num-steps": "0"}, "--num-steps 0: input should be"),
        ("mix.wav", {"--inner-noise": "nan"}, "--inner-noise nan: input should be"),
        ("mix.wav", {"--name": "abacus"}, "--name: invalid choice: 'abacus'"),
        ("mix.wav", {"--preset": "slow"}, "--preset: invalid choice: 'slow'"),
        ("mix.wav", {"--batch-size": "0"}, "--batch-size 0: input should be"),
        ("mix.wav", {"--noise-prior": "pink"}, "pink: no prior here"),
        ("mix.wav", {"--abacus": "1"}, "arguments: --abacus 1; see `davss separate --help`"),
        ("mix.wav", {"--lips": "face.mp4"}, "face.mp4"),
        ("mix.wav", {"--speakers": "-1"}, "--speakers"),
        ("mix.wav", {"--device": "abacus"}, "--device abacus: cannot be used here"),
        ("blip.wav", {}, "blip.wav: lasts 0.006 s"),
        ("mix.wav", {"--sigma-min": "1"}, "--sigma-min 1.0: must be below sigma_max, 0.5"),
        ("mix.wav", {"--overlap-seconds": "3"}, "must be at most half of window_seconds, 2"),
        ("mix.wav", {"--out": "/proc/davss/out"}, "--out /proc/davss/out: cannot be written"),
        ("mix.wav", {"--out": __file__ + "/out"}, "cannot be written (not a directory)"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    folder, tmp_path, capsys, recording, changes, message
):
    with pytest.raises(SystemExit) as error:
        main(arguments(folder, recording, **{"--out": str(tmp_path / "out")} | changes))
    lines = capsys.readouterr().err.strip().splitlines()
    assert error.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "out").exists()


def test_an_input_is_never_replaced(folder, tmp_path, capsys):
    recording = tmp_path / "noise.wav"
    recording.write_bytes((folder / "mix.wav").read_bytes())
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, recording.name, **places(folder, tmp_path / "x" / "..")))
    assert "noise.wav there is an input" in capsys.readouterr().err
    assert recording.read_bytes() == (folder / "mix.wav").read_bytes()


def test_an_input_is_never_removed_as_stale(folder, tmp_path, capsys):
    out = places(folder, tmp_path)
    main(arguments(folder, **out, **{"--speakers": "2", "--num-samples": "1"}))
    before = (tmp_path / "speaker_2.wav").read_bytes()
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, "speaker_2.wav", **out))
    assert "speaker_2.wav there is an input" in capsys.readouterr().err
    assert (tmp_path / "speaker_2.wav").read_bytes() == before


def test_what_an_earlier_separation_left_is_removed(folder, tmp_path):
    out = places(folder, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "speaker_9.wav").write_text("the user's own")
    more = {"--speakers": "0", "--off-screen": "2", "--num-samples": "2"}
    main(arguments(folder, **out, **more))
    names = {"speaker_1.wav", "speaker_2.wav", "noise.wav", "separation.json", "speaker_9.wav"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"spread.npz"}
    with np.load(tmp_path / "out" / "spread.npz") as spread:
        assert list(spread) == ["speaker_1", "speaker_2", "noise"]
        assert all(array.dtype == np.float32 for array in spread.values())
    sure = json.loads((tmp_path / "out" / "separation.json").read_text())["confidence"]
    assert list(sure) == ["speaker_1", "speaker_2", "noise"]
    assert all(len(each) == 2 and 0 < each[0] < 1 for each in sure.values())  # of 1.00006 s
    main(arguments(folder, **out, **{"--num-samples": "1"}))
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == names - {"speaker_2.wav"}


def test_an_interrupted_run_goes_on(folder, tmp_path, capsys, monkeypatch):
    class Bar(application.tqdm):
        most = 5

        def update(self, num=1):
            super().update(num)
            if self.n > self.most:
                raise KeyboardInterrupt

    flags = {"--window-seconds": "0.4", "--overlap-seconds": "0.08", "--num-samples": "1"}
    flags |= {"--batch-size": "1"}
    main(arguments(folder, **places(folder, tmp_path / "whole"), **flags))
    monkeypatch.setattr(application, "tqdm", Bar)
    with pytest.raises(SystemExit) as stopped:
        main(arguments(folder, **places(folder, tmp_path / "out"), **flags))
    assert stopped.value.code == 130
    assert [file.name for file in (tmp_path / "out").iterdir()] == [".davss-unfinished"]
    assert "the same command again goes on there" in capsys.readouterr().err
    Bar.most = 99
    main(arguments(folder, **places(folder, tmp_path / "out"), **flags))
    names = {"speaker_1.wav", "noise.wav", "separation.json"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    for name in ("speaker_1.wav", "noise.wav"):
        found, whole = (soundfile.read(tmp_path / part / name)[0] for part in ("out", "whole"))
        np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("factor", [1e-6, 1e4])
def test_a_recording_of_any_level_is_separated(folder, tmp_path, factor):
    for name, gain in (("one", 1.0), ("other", factor)):
        (tmp_path / name).mkdir()
        audio, rate = soundfile.read(folder / "mix.wav")
        soundfile.write(tmp_path / name / "x.wav", gain * audio, rate, subtype="FLOAT")
        out = places(folder, tmp_path / name / "out")
        main(arguments(tmp_path / name, "x.wav", **out))
    speech = [
        soundfile.read(tmp_path / name / "out" / "speaker_1.wav")[0] for name in ("one", "other")
    ]
    np.testing.assert_allclose(speech[1] / factor, speech[0], rtol=1e-3, atol=1e-4)


def test_threads_are_as_many_as_cores_unless_the_user_says(monkeypatch):
    asked = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_threads()
    assert asked == [cores.count()]


def places(folder, out):
    return {
        "--speech-prior": str(folder / "speech"),
        "--noise-prior": str(folder / "noise"),
        "--out": str(out),
    }


def parsed(*flags):
    """The flags of `davss separate`."""
    return build_parser().parse_args(["separate", "x.wav", *PLACES, *flags])


@pytest.mark.parametrize(
    ("flags", "preset", "changes"),
    [
        ("", "fast", {}),
        ("--preset fast", "fast", {}),
        ("--preset paper", "paper", {}),
        ("--num-steps 7 --preset paper", "paper", {"num_steps": 7}),
        ("--name dps --order 2 --zeta 0", "fast", {"name": "dps", "order": 2, "zeta": 0.0}),
        ("--preset paper --consistency", "paper", {"consistency": True}),
        ("--shares isotropic --rho 6", "fast", {"shares": "isotropic", "rho": 6.0}),
        ("--window-seconds 8 --overlap-seconds 1", "fast", LONG),
    ],
)
def test_flags_change_the_preset(flags, preset, changes):
    given = parsed(*flags.split())
    own = names_of(SAMPLERS[changes.get("name", PRESETS[preset].name)])
    values = {key: value for key, value in to_dict(PRESETS[preset]).items() if key in own}
    assert sampler_settings(given, given.speech_prior) == parse(SamplerConfig, values | changes)
    assert execution_settings(given) == SeparationConfig()


def test_flags_of_execution():
    flags = "--batch-size 2 --precision bfloat16 --compile --checkpointing"
    assert execution_settings(parsed(*flags.split())) == SeparationConfig(
        batch_size=2, precision="bfloat16", compile=True, checkpointing=True
    )


def test_noise_models_that_need_no_prior(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("nmf", "gaussian", "none"):
        noise = parsed("--noise-prior", name).noise_prior
        assert noise == name and isinstance(noise, str)
    (tmp_path / "nmf").mkdir()  # a directory that bears the name is a prior's
    assert parsed("--noise-prior", "nmf").noise_prior == Path("nmf")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--zeta 1", "error: --zeta: a setting of dps, not of daps; leave it out"),
        ("--preset paper --shares offer", "error: --shares: a setting of daps, not of dps; leave"),
        ("--name pseudo --inner-noise 0", "error: --inner-noise: a setting of daps, not of pseudo"),
        ("--sigma-min 2", "error: --sigma-min 2.0: must be below sigma_max"),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        main(["separate", "x.wav", *PLACES, *flags.split()])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(message)


def test_every_setting_has_its_flag():
    for cls in (*SAMPLERS.values(), SeparationConfig):
        values = to_dict(cls())
        flags = [
            f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
            + ("" if value is False else f"={value}")
            for name, value in values.items()
        ]
        given = parsed(*flags)
        assert cls() in (sampler_settings(given, None), execution_settings(given))


@pytest.mark.parametrize("command", ["separate", "profile"])
def test_help_names_the_presets_own_values(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    fast, paper = PRESETS["fast"], PRESETS["paper"]
    assert f"[fast {fast.num_steps}, paper {paper.num_steps}, small16 " in text
    assert "else fast)" in text and "(default: None)" not in text
    assert "--name {dps,daps,pseudo,udiffse,mean_field}" in text


def test_a_file_in_the_way_is_noticed_before_the_work(folder, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit):
        main(arguments(folder, **{"--out": str(tmp_path / "out")}))
    assert "a file of that name is in the way" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_swapped_priors_are_named(folder, capsys):
    swapped = {"--speech-prior": str(folder / "noise"), "--noise-prior": str(folder / "speech")}
    with pytest.raises(SystemExit):
        main(arguments(folder, **swapped))
    assert "swap the two" in capsys.readouterr().err


def test_info(folder, capsys):
    main(["info", str(folder / "speech")])
    described = json.loads(capsys.readouterr().out)
    assert described["kind"] == "speech" and described["parameters"] > 1000


def test_a_reader_that_leaves_ends_it_without_a_word(folder):
    command = [sys.executable, "-m", "davss", "info", str(folder / "speech")]
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does when it has what it wants
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_broken_connection_is_not_taken_for_a_reader_that_left():
    with pytest.raises(BrokenPipeError), ending_in_one_line():
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (["separate", "--help"], 0),
        (["profile", "--help"], 0),
        (["separate", "--num-steps", "a"], 2),
    ],
)
def test_help_and_mistakes_answer_quickly(flags, status):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "davss", *flags],
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    slow = {"torch", "numpy", "cv2", "av", "soundfile", "ray", "pandas"}
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in loaded and not loaded & slow


@pytest.mark.parametrize(
    "command", ["", "separate", "score", "validate", "info", "convert", "profile"]
)
def test_help_is_ascii(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert capsys.readouterr().out.isascii()


def test_version_and_the_module(folder):
    command = [sys.executable, "-m", "davss", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"davss {davss.__version__}\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x\udcff.wav", r"x\xff.wav: name is not UTF-8"),
        ("x\udcc3\udca4.wav", "xä.wav: this locale does not know its name; set PYTHONUTF8=1"),
        ("x" * 300, ": File name too long"),
    ],
)
@pytest.mark.parametrize("flag", ["", "--out", "--lips", "--speech-prior", "--noise-prior"])
def test_names_that_no_file_can_have(folder, capsys, flag, name, message):
    with pytest.raises(SystemExit):
        main(["separate", *[str(folder / "mix.wav")] * bool(flag), *flag.split(), name])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0] and "see `davss separate --help`" in lines[0]


def test_any_terminal_shows_any_name(folder):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "davss", "info", "größe"]
    done = subprocess.run(command, capture_output=True, env=environment)
    shown = "größe".encode("ascii", errors="backslashreplace")
    assert done.returncode == 2 and done.stderr.startswith(b"error: " + shown + b": no prior here")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2.19 GiB for an array with shape (589064194,)"),
        RuntimeError("CUDA out of memory. Tried to allocate 314.00 MiB. GPU 0 has 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        ImportError("libtorch_cuda.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_line_and_the_next_recording_goes_on(
    folder, tmp_path, monkeypatch, capsys, error
):
    def fail(recording, *_):
        if recording.name == "a.wav":
            raise error
        return {"files": []}

    for name in ("a.wav", "b.wav"):
        shutil.copy(folder / "mix.wav", tmp_path / name)
    monkeypatch.setattr("davss.cli.application.separate_file", fail)
    with pytest.raises(SystemExit) as end:
        main(["separate", str(tmp_path), "--out", str(tmp_path / "out")])
    first, last = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and first.startswith(f"error: {tmp_path / 'a.wav'}: out of memory (")
    assert first.endswith(
        "); free some, allow this process more, or on a GPU take a smaller batch size"
    )
    assert last == "error: 1 of 2 recordings were not separated; see above"


def test_other_errors_are_not_taken_for_too_little_memory():
    with pytest.raises(RuntimeError, match="shapes"), ending_in_one_line():
        raise RuntimeError("shapes do not fit; nothing to allocate")


def test_a_request_to_end_removes_what_is_temporary(folder, tmp_path, monkeypatch, capsys):
    """As of `timeout`, `docker stop` and batch systems."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    content = (folder / "mix.wav").read_bytes()
    threading.Thread(target=(tmp_path / "fifo").write_bytes, args=[content], daemon=True).start()
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        monkeypatch.setattr(
            "davss.cli.application.read_recording", lambda *_: signal.raise_signal(signal.SIGTERM)
        )
        with pytest.raises(SystemExit) as end:
            main(["separate", str(tmp_path / "fifo"), "--out", str(tmp_path / "out")])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "terminated\n"
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_current_folder_that_was_removed(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as end:
        main(["separate", "x.wav", "--out", "out"])
    said = capsys.readouterr().err
    assert (end.value.code, said) == (
        2, "error: the current folder has been removed; change to another\n"
    )  # fmt: skip


def test_a_file_of_somebody_else_is_one_line(capsys):
    """As a colleague's shard in a shared folder; root may read all."""
    with pytest.raises(SystemExit) as end, ending_in_one_line():
        raise PermissionError(errno.EACCES, "Permission denied", "/shared/x.tar")
    said = capsys.readouterr().err
    assert (end.value.code, said) == (
        2, "error: /shared/x.tar: Permission denied; correct its permissions\n"
    )  # fmt: skip


def test_where_nothing_temporary_can_be_written(capsys, monkeypatch):
    """As in a container that is read-only but for the folder of results."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/proc"])
    with pytest.raises(SystemExit), ending_in_one_line():
        tempfile.mkdtemp()
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "set TMPDIR to a folder that can be written" in said


@pytest.mark.parametrize(
    ("closed", "recording", "status"), [([0, 1, 2], "mix.wav", 0), ([0], "-", 2)]
)
def test_standard_streams_that_are_closed(folder, tmp_path, closed, recording, status):
    """As some services start programs: what is printed must not get into the next file opened."""
    given = arguments(folder, **{"--out": str(tmp_path / "out")})
    given[1] = str(folder / recording) if recording != "-" else recording
    code = f"import os, sys; [os.close(n) for n in {closed}]; os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", code, sys.executable, "-m", "davss", *given]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == status
    if status == 0:
        lengths = [soundfile.info(file).frames for file in (tmp_path / "out").glob("*.wav")]
        assert lengths == [16001, 16001]
    else:
        assert done.stderr.startswith(b"error: -: the file is empty (0 bytes)")


def test_a_full_standard_output_is_one_line(folder):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "davss", "info", str(folder / "speech")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "standard output" in done.stderr and "no space left" in done.stderr


def test_a_recording_whose_name_begins_with_a_dash(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("-a.wav").touch()
    with pytest.raises(SystemExit):
        main(["separate", "-a.wav", "--out", "x"])
    assert (
        "error: -a.wav: its dash is that of a flag; write ./-a.wav; see" in capsys.readouterr().err
    )
