"""`davss profile` as its user runs it."""

import json

import pytest

from davss.cli import main
from davss.diffusion.prior import save_prior
from tests.priors import make_noise_prior, make_speech_prior

PAPER = ("--preset", "paper")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    save_prior(make_speech_prior(), folder / "speech")
    save_prior(make_noise_prior(), folder / "noise")
    return folder


def arguments(folder, *flags, priors=True):
    directories = ["--speech-prior", str(folder / "speech"), "--noise-prior", str(folder / "noise")]
    return ["profile", *(directories if priors else []), "--device", "cpu", *flags]


def test_the_command_prints_what_it_measured(folder, capsys):
    size = ("--seconds", "0.125", "--num-steps", "5", "--steps-to-measure", "1")
    main(arguments(folder, *PAPER, *size))
    printed = capsys.readouterr()
    lines = dict(line.split("  ", 1) for line in printed.out.splitlines())
    assert "25 of single signals a mixture: speech 20, noise 5" in lines["forwards"]
    assert "20: speech 16, noise 4" in lines["backwards"]
    assert "best of 1 after a warm-up" in lines["step"]
    assert "of the best 3×3 convolution" in lines["achieved"]
    assert {"memory", "one mixture"} <= lines.keys()
    assert "hours here" in lines["1000 mixtures"]
    assert "assumed (40% of an H100's 989 in dense bf16)" in lines["1000 on a GPU"]
    assert "step 1 of 1: " in printed.err and "step" not in printed.err.splitlines()[0]


def test_json_of_a_dry_run(folder, capsys):
    forecast = ("--gpu-tflops", "50", "--mixtures", "3000")
    main(arguments(folder, *PAPER, "--dry-run", "--json", *forecast))
    result = json.loads(capsys.readouterr().out)
    assert result["timing"] is None and result["sample_rate"] == 8000
    assert result["evaluations"]["speech_forwards"] == 1600
    expected = 3000 * result["mixture_flops"] / 50e12 / 3600
    assert result["gpu_hours"] == pytest.approx(expected)


def test_untrained_priors_of_a_given_size(folder, capsys):
    size = ("--nf", "16", "--n-fft", "254", "--sample-rate", "8000", "--seconds", "1")
    main(arguments(folder, "--dry-run", *size, priors=False))
    assert "1 s at 8000 Hz" in capsys.readouterr().out


def test_a_noise_model_without_a_network(folder, capsys):
    size = ("--nf", "16", "--n-fft", "254", "--sample-rate", "8000", "--seconds", "1")
    main(arguments(folder, "--dry-run", "--noise-prior", "nmf", *size, priors=False))
    assert "nmf, no network" in capsys.readouterr().out
    flags = ("--noise-prior", "none", "--dry-run", "--json")
    main(arguments(folder, *flags))
    result = json.loads(capsys.readouterr().out)
    assert result["noise_parameters"] == result["evaluations"]["noise_forwards"] == 0


def test_presets_and_execution(folder, capsys):
    main(arguments(folder, "--dry-run", "--json", "--precision", "bfloat16", "--num-steps", "7"))
    result = json.loads(capsys.readouterr().out)
    assert result["sampler"]["name"] == "daps" and result["sampler"]["num_steps"] == 7
    assert result["evaluations"]["speech_backwards"] == 0
    assert result["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--speakers", "0"], "--speakers 0: give 1 or more"),
        (["--batch-size", "0"], "--batch-size 0: input should be"),
        (["--mixtures", "-1"], "--mixtures -1: give 1 or more"),
        (["--steps-to-measure", "0"], "--steps-to-measure 0: give 1 or more"),
        (["--seconds", "nan"], "--seconds nan: give a length"),
        (["--seconds", "0.001"], "--seconds 0.001: shorter than the networks' STFT window"),
        (["--gpu-tflops", "0"], "--gpu-tflops 0: give a rate"),
        (["--num-steps", "0"], "--num-steps 0: input should be"),
        (["--name", "abacus"], "--name: invalid choice"),
        (["--device", "abacus"], "--device abacus: cannot be used here"),
        (["--nf", "8"], "--nf, --n-fft, --sample-rate: priors given by directory"),
        (["--speech-prior", "nowhere"], "nowhere: no prior here"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, flags, message):
    assert message in failure(arguments(folder, *flags), capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--noise-prior", "somewhere"], "--speech-prior, --noise-prior: give both"),
        (["--nf", "0"], "--nf 0: input should be"),
        (["--nf", "2"], "2 channels: not divisible into groups; give nf as 8"),
        (["--nf", "132"], "132 channels: not divisible into groups; give nf as 8"),
        (["--n-fft", "512"], "network.n_fft = 512"),
        (["--sample-rate", "0"], "--sample-rate 0"),
    ],
)
def test_bad_sizes_are_one_line(folder, capsys, flags, message):
    assert message in failure(arguments(folder, *flags, priors=False), capsys)


def failure(argv, capsys):
    with pytest.raises(SystemExit) as error:
        main(argv)
    lines = capsys.readouterr().err.strip().splitlines()
    assert error.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]
