"""Profiles: params.yaml is the demo, the paper's is the defaults, slips are told by key."""

import functools
import io
import sys
from pathlib import Path

import pytest
import yaml

from davss import config
from davss.errors import DavssError
from pipelines import run
from pipelines.compose import CONF, SECTIONS, compose, main, validate

ROOT = Path(__file__).parents[2]


@functools.cache
def composed(profile, *overrides):
    return yaml.safe_load(compose(profile, overrides))


def test_params_yaml_is_the_composed_demo():
    assert (ROOT / "params.yaml").read_text() == compose("demo"), "run `make params`"


def test_composition_is_that_of_dvc(tmp_path):
    from dvc.utils.hydra import compose_and_dump

    for profile in ("demo", "paper", "small", "small16"):
        out = tmp_path / f"{profile}.yaml"
        compose_and_dump(out, str(CONF), None, "config", "", [f"profile={profile}"])
        assert out.read_text() == compose(profile)


@pytest.mark.parametrize("profile", ["demo", "paper", "small", "small16"])
def test_every_section_parses(profile):
    params = composed(profile)
    validate(params)
    assert params["profile"] == profile
    assert set(SECTIONS) - set(params) == (set() if profile == "demo" else {"demo"})
    assert set(params["noise_priors"]) <= set(params["noise_models"])
    assert set(params["noise_priors"]) | set(params["conditions"]) <= set(params["corpora"])


def test_the_paper_profile_is_the_dataclass_defaults():
    params = composed("paper")
    defaults = {"sampler": config.SamplerConfig, "mixtures": config.MixturesConfig}
    defaults |= {"separation": config.SeparationConfig, "report": config.ReportConfig}
    defaults |= {"speech_prior": config.PriorConfig}
    for section, cls in defaults.items():
        assert config.parse(cls, params[section], section) == cls(), section
    assert params["noise_priors"] == ["wham", "dns"]
    assert params["noise_models"] == ["wham", "dns", "nmf", "gaussian", "none"]
    assert params["shards"] == config.to_dict(config.ShardsConfig(visual_encoder="braven"))
    different = {
        key for key, value in params["noise_prior"].items() if value != params["speech_prior"][key]
    }
    assert different == {"diffusion"}, "the noise prior differs in its levels only"


@pytest.mark.parametrize("preset", config.PRESETS)
def test_samplers_are_the_presets(preset):
    params = composed("demo", f"sampler={preset}")
    assert params["sampler"] == config.to_dict(config.PRESETS[preset])


def test_the_demo_names_every_key_of_every_section():
    """A key left to its default would be unknown to `-S`."""
    params = composed("demo")
    for section in (
        "shards",
        "mixtures",
        "sampler",
        "separation",
        "report",
        "speech_prior",
        "experiment",
    ):
        full = config.to_dict(config.parse(SECTIONS[section], params[section], section))
        assert _keys(full) == _keys(params[section]), section


def test_overrides_reach_other_profiles():
    params = composed("paper", "sampler.guidance_weight=0.7", "noise_priors=[dns]")
    assert params["sampler"]["guidance_weight"] == 0.7
    assert params["noise_priors"] == ["dns"]


@pytest.mark.parametrize("override", ["sampler.zetta=1", "samplr.zeta=1", "+a b"])
def test_an_override_of_no_key_names_it(override):
    with pytest.raises(DavssError) as caught:
        compose("demo", [override])
    assert override.split("=")[0] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.rho=high", "key 'sampler.rho' = 'high'"),
        ("+sampler.zetta=1", "unknown key 'sampler.zetta'"),
        ("+extra=1", "unknown key 'extra'"),
        ("noise_priors=[wam]", "key 'noise_priors.0' = 'wam'"),
        ("noise_models=[wham,nfm]", "key 'noise_models.1' = 'nfm'"),
        ("noise_models=[dns,nmf]", "key 'noise_models': no noise prior is trained on 'dns'; add"),
        ("noise_priors=[dns]", "key 'noise_models': no noise prior is trained on 'wham'; add"),
        ("corpora.wham.root=3", "key 'corpora.wham.root' = 3"),
    ],
)
def test_validation_names_the_key(override, message):
    with pytest.raises(DavssError, match=message.replace("[", r"\[")):
        validate(composed("demo", override))


def test_compose_writes_and_checks(tmp_path, monkeypatch):
    # a locale that is not UTF-8
    monkeypatch.setattr(io, "text_encoding", lambda encoding, _=2: encoding or "ascii")
    params = tmp_path / "params.yaml"
    main(["--params", str(params), "--profile", "paper", "sampler.zeta=0.7"])
    assert yaml.safe_load(params.read_text("utf-8"))["sampler"]["zeta"] == 0.7
    with pytest.raises(DavssError, match="make params"):
        main(["--params", str(params), "--check"])
    with pytest.raises(DavssError, match=r"sampler\.rho"):
        main(["--params", str(params), "sampler.rho=high"])
    assert "profile: paper" in params.read_text("utf-8"), "nothing is written on an error"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_stage_checks_the_whole_params_file(tmp_path, monkeypatch, capsys):
    """A slip in a section that the stage does not read stops it all the same."""
    params = tmp_path / "params.yaml"
    params.write_text(compose("demo", ["sampler.rho=high"]))
    monkeypatch.setattr(sys, "argv", ["pipelines.shards", "wham", "--params", str(params)])
    with pytest.raises(SystemExit, match="2"):
        run(lambda: pytest.fail("the stage begins"))
    assert capsys.readouterr().err.startswith(f"error: {params}: key 'sampler.rho' = 'high'")


@pytest.mark.parametrize(
    ("raised", "status"), [(DavssError("x: missing"), 2), (KeyboardInterrupt(), 130), (None, None)]
)
def test_run_leaves_with_the_status(raised, status, capsys):
    def stage():
        if raised is not None:
            raise raised

    if status is None:
        run(stage, reads_params=False)
        return
    with pytest.raises(SystemExit) as caught:
        run(stage, reads_params=False)
    assert caught.value.code == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def _keys(node):
    if not isinstance(node, dict):
        return None
    return {key: _keys(value) for key, value in node.items()}
