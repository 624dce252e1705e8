"""The priors that come with davss: names, defaults, the package, the command that ships them."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import davss
from davss import small
from davss.cli import build_parser, main
from davss.cli.application import packaged_for
from davss.cli.flags import sampler_settings
from davss.config import PRESETS
from davss.diffusion.prior import NoisePrior, SpeechPrior, load_prior, save_prior
from davss.errors import DavssError
from davss.networks.visual import BravenLips
from pipelines import ship
from tests.priors import INFO, make_noise_prior, make_speech_prior
from tests.small import package_priors

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    return package_priors(tmp_path_factory.mktemp("packaged"))


@pytest.fixture
def folder(packaged, tmp_path, monkeypatch):
    """An empty working directory, and tiny priors in place of the packaged ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(small, "FOLDER", packaged)
    noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "mix.wav", noise, 16000)
    return tmp_path


needs_weights = pytest.mark.skipif(
    not all((small.FOLDER / name).is_dir() for name in small.NAMES),
    reason="no weights in davss/small yet; `python -m pipelines.ship` puts them there",
)


def test_names_load(folder):
    assert isinstance(davss.load_prior("small-speech"), SpeechPrior)
    for name in ("small-noise", "small-noise-dns", Path("small-noise")):
        assert isinstance(davss.load_prior(name), NoisePrior)


def test_a_directory_of_the_name_comes_first(folder):
    save_prior(make_speech_prior(), folder / "small-noise")
    assert isinstance(load_prior("small-noise"), SpeechPrior)
    assert isinstance(davss.Separator.small("cpu", noise="small-noise").noise_prior, NoisePrior)


def test_unknown_names_are_one_line_listing_the_known(folder):
    for unknown in (load_prior, small.folder_of):
        with pytest.raises(DavssError, match="small-speech, small-noise, small-noise-dns") as error:
            unknown("small-music")
        assert str(error.value).startswith("small-music: no ") and "\n" not in str(error.value)
    with pytest.raises(DavssError, match="data/small-noise: no prior here"):
        load_prior("data/small-noise")


def test_without_weights_the_way_to_them_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(small, "FOLDER", tmp_path / "nothing")
    with pytest.raises(DavssError, match="small-speech: davss was installed without its weights"):
        davss.load_prior("small-speech")


def test_separator_of_the_packaged_priors(folder):
    separator = davss.Separator.small(device="cpu")
    assert separator.sampler == PRESETS["fast"] and separator.device.type == "cpu"
    assert separator.noise_prior == small.DEFAULT_NOISE
    separator = davss.Separator.small("cpu", noise=small.NOISE)
    assert isinstance(separator.noise_prior, NoisePrior)
    few = replace(PRESETS["fast"], num_steps=2, num_samples=1)
    separator = davss.Separator.small("cpu", few, noise="nmf")
    assert separator.noise_prior == "nmf" and separator.num_evaluations == 2
    separation = separator(torch.randn(1, 4000), sample_rate=8000)
    assert separation.speech.shape == (1, 1, 4000)
    for wrong, message in (("small-speech", "a speech prior"), ("pink", "small-noise-dns")):
        with pytest.raises(DavssError, match=message):
            davss.Separator.small(noise=wrong)


def test_separate_takes_them_by_default_and_says_so(folder, capsys):
    main(["separate", "mix.wav", "--out", "out", "--device", "cpu"])
    assert f"speech prior: {small.SPEECH_16}, packaged" in capsys.readouterr().err
    report = json.loads((folder / "out" / "separation.json").read_text())
    assert report["speech_prior"] == small.SPEECH_16 and report["bandwidth"] == 8000
    assert report["sampler"]["name"] == "mean_field" and not report["warnings"]
    flags = "--out out --speakers 2 --num-steps 2 --num-samples 1 --device cpu --preview"
    main(f"separate mix.wav {flags}".split())
    said = capsys.readouterr().err
    assert f"speech prior: small-speech, packaged with davss {davss.__version__}; " in said
    assert f"noise prior: {small.DEFAULT_NOISE}\n" in said
    assert "note: the priors work at 8000 Hz, so the output has nothing above 4000 Hz; " in said
    assert "the recording goes up to 8000 Hz" in said
    assert "the output has nothing above 4000 Hz; " in (folder / "out/preview.html").read_text()
    report = json.loads((folder / "out" / "separation.json").read_text())
    assert (report["speech_prior"], report["noise_prior"]) == ("small-speech", small.DEFAULT_NOISE)
    (told,) = report["warnings"]
    assert told in said and "mix.wav: several voices without lips" in told
    assert report["bandwidth"] == 4000 and report["davss_version"] == davss.__version__


def test_other_priors_are_named_and_a_low_rate_needs_no_note(folder, capsys):
    save_prior(make_speech_prior(), folder / "mine")
    soundfile.write("mix.wav", soundfile.read("mix.wav")[0], 8000)
    flags = "--out out --num-steps 2 --num-samples 1 --device cpu"
    main(f"separate mix.wav --speech-prior mine --noise-prior none {flags}".split())
    said = capsys.readouterr().err
    assert "speech prior: mine; noise prior: none\n" in said and "note:" not in said


def test_the_preset_follows_the_speech_prior(folder):
    for flags, preset in (
        ("", "fast"),
        ("--noise-prior nmf", "fast"),
        ("--preset paper", "paper"),
        ("--speech-prior other", "fast"),
        ("--speech-prior small16-speech", "direct"),
    ):
        given = build_parser().parse_args(f"separate mix.wav --out out {flags}".split())
        prior = given.speech_prior or Path(small.SPEECH)
        assert sampler_settings(given, prior) == PRESETS[preset]


def test_one_speaker_without_lips_has_priors_of_16_khz():
    chosen = [packaged_for(*of) for of in ((1, False, "nmf"), (1, False, Path(small.NOISE_16)))]
    assert chosen == [Path(small.SPEECH_16)] * 2
    for of in ((2, False, "nmf"), (1, True, "nmf"), (1, False, Path(small.NOISE))):
        assert packaged_for(*of) == Path(small.SPEECH)


def test_help_and_info_know_the_names(folder, capsys):
    for command in ("separate", "info"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert small.SPEECH in capsys.readouterr().out
    main(["info", "small-speech"])
    assert json.loads(capsys.readouterr().out)["kind"] == "speech"
    with pytest.raises(SystemExit):
        main(["info", "small-music"])
    assert "one of small-speech, small-noise, small-noise-dns" in capsys.readouterr().err


def test_importing_davss_reads_none_of_them():
    code = "import sys, davss.cli; print('torch' in sys.modules, 'safetensors' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("make", [make_speech_prior, make_noise_prior])
def test_half_precision_survives_the_disk(tmp_path, make):
    prior = make()
    for name in ("half", "full"):
        save_prior(prior, tmp_path / name, half=name == "half")
    stored = load_file(tmp_path / "half" / "weights.safetensors")
    loaded = load_prior(tmp_path / "half")
    for name, weight in prior.network.state_dict().items():
        assert stored[name].dtype == (torch.float16 if weight.ndim > 1 else torch.float32), name
        read = loaded.network.state_dict()[name]
        assert read.dtype == torch.float32
        assert torch.equal(read, stored[name].float())
        # half a unit in the last of 11 bits, or of the smallest numbers
        assert ((read - weight).abs() <= weight.abs() * 2**-11 + 2**-25).all()
    save_prior(loaded, tmp_path / "again", half=True)  # rounding twice is rounding once
    again = load_file(tmp_path / "again" / "weights.safetensors")
    assert all(torch.equal(again[name], stored[name]) for name in stored)
    sizes = [(tmp_path / n / "weights.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.65 * sizes[1]


def test_weights_beyond_half_precision_are_refused(tmp_path):
    prior = make_noise_prior()
    name, weight = next((n, p) for n, p in prior.network.named_parameters() if p.ndim > 1)
    with torch.no_grad():
        weight.view(-1)[0] = 1e5
    with pytest.raises(DavssError, match=re.escape(f"'{name}' does not fit")):
        save_prior(prior, tmp_path / "half", half=True)
    assert not (tmp_path / "half").exists()


@pytest.fixture
def trained(folder, monkeypatch):
    """Trained priors in data/priors, and an empty package."""
    monkeypatch.setattr(small, "FOLDER", folder / "package")
    save_prior(make_speech_prior(), folder / "data/priors/speech")
    save_prior(make_noise_prior(), folder / "data/priors/wham")
    (folder / "data/training/speech").mkdir(parents=True)
    (folder / "data/training/speech/metrics.json").write_text('{"seconds": 90.0}')
    return folder


def test_ship(trained, capsys):
    ship.main(["data/priors/speech", "small-speech"])
    said = capsys.readouterr().out
    assert "samples seen: 12; minutes: 1.5; " in said
    changed = float(said.split("relative to their RMS: ")[1])
    assert 1e-5 < changed < ship.MAX_DIFFERENCE
    prior = load_prior("small-speech")
    assert isinstance(prior, SpeechPrior)
    lineage = prior.info.training
    assert {name: lineage[name] for name in INFO.training} == INFO.training
    assert lineage["shipped_from"]["figures"] == {"seconds": 90.0}
    weights = small.FOLDER / "small-speech" / "weights.safetensors"
    assert weights.stat().st_mode & 0o777 == 0o644
    assert len(lineage["shipped_from"]["weights_sha256"]) == 64
    ship.main(["data/priors/wham", "small-noise", "--float32"])
    captured = capsys.readouterr()
    assert "minutes: not recorded" in captured.out and "go unrecorded" in captured.err
    stored = load_file(small.FOLDER / "small-noise" / "weights.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float32}
    davss.Separator.small("cpu")


def test_ship_refuses(trained, monkeypatch):
    cases = [
        (["data/priors/wham", "small-speech"], "a noise prior; small-speech must be a speech"),
        (["data/priors/speech", "small-noise"], "a speech prior; small-noise must be a noise"),
        (["data/priors/dns", "small-noise-dns"], "data/priors/dns: no trained prior there"),
        (["data/priors/wham", "small-noise", "--metrics", "x.json"], "x.json: no such file"),
    ]
    for arguments, message in cases:
        with pytest.raises(DavssError, match=message):
            ship.main(arguments)
    monkeypatch.setattr(small, "MAX_MEGABYTES", 0.001)
    with pytest.raises(DavssError, match=r"at most 0\.001 MB may be shipped"):
        ship.main(["data/priors/wham", "small-noise"])
    for cost in (0.02, float("nan")):
        monkeypatch.setattr(ship, "difference", lambda *_, cost=cost: cost)
        with pytest.raises(DavssError, match="half precision changes .* give --float32"):
            ship.main(["data/priors/wham", "small-noise"])
    braven = SpeechPrior(INFO, BravenLips("0" * 64, 6, 1, 8, 1))
    save_prior(braven, "data/priors/braven")
    with pytest.raises(DavssError, match="need BRAVEn's checkpoint"):
        ship.main(["data/priors/braven", "small-speech"])
    assert not small.FOLDER.exists()


def test_size_limit():
    """Of what lies in the package now, whether or not that is all of them."""
    assert small.MAX_MEGABYTES <= 12
    assert small.size() <= small.MAX_MEGABYTES * 1e6


@needs_weights
def test_the_real_ones_fit_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for noise in (small.NOISE, small.NOISE_DNS):
        davss.Separator.small("cpu", noise=noise)
    davss.Separator(davss.load_prior(small.SPEECH_16), davss.load_prior(small.NOISE_16))


def test_the_model_card_knows_every_prior():
    card = (small.FOLDER / "MODEL_CARD.md").read_text()
    assert all(f"`{name}`" in card for name in small.NAMES)


def test_the_package_takes_every_file(packaged):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["davss.small"]
    taken = {file for pattern in patterns for file in packaged.glob(pattern)}
    assert taken == {file for file in packaged.rglob("*") if file.is_file()} and taken
    assert (small.FOLDER / "MODEL_CARD.md") in small.FOLDER.glob(patterns[0])


@pytest.mark.slow
def test_an_installed_wheel_knows_them(packaged, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "davss", source / "davss", ignore=shutil.ignore_patterns("small*-*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(packaged, source / "davss" / "small", dirs_exist_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source]
    built = subprocess.run(command, capture_output=True, text=True)
    if "No matching distribution found for setuptools" in built.stderr:
        pytest.skip("setuptools, which builds wheels, cannot be had from the package index here")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("davss-*.whl")
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("davss/small/")}
        archive.extractall(installed)
    expected = {f"davss/small/{file.relative_to(packaged)}" for file in packaged.glob("*/*")}
    assert names == expected | {"davss/small/__init__.py", "davss/small/MODEL_CARD.md"}
    code = "import davss; print(davss.__file__); davss.Separator.small('cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
