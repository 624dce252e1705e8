"""Settings: strict parsing that names the key, sections of a params file, digests."""

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import yaml

from davss import config
from davss.config import (
    SAMPLERS,
    CorpusConfig,
    DapsConfig,
    DpsConfig,
    MixturesConfig,
    PriorConfig,
    SamplerConfig,
    load_section,
    parse,
)
from davss.errors import DavssError
from davss.params_file import read_yaml


def test_defaults_need_no_values():
    assert parse(SamplerConfig, {}) == SamplerConfig()
    assert parse(PriorConfig, {}, "speech_prior").network.nf == 128


def test_nested_values_and_tuples():
    prior = parse(PriorConfig, {"network": {"nf": 16, "ch_mult": [1, 2]}}, "noise_prior")
    assert prior.network == config.NetworkConfig(nf=16, ch_mult=(1, 2))
    assert prior.diffusion == config.DiffusionConfig()


def test_whole_numbers_are_good_floats():
    assert parse(SamplerConfig, {"rho": 10}).rho == 10.0


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (SamplerConfig, {"zetta": 1.0}, "unknown key 'x.zetta'"),
        (SamplerConfig, {"zeta": "0.5"}, "key 'x.zeta' = '0.5'"),
        (SamplerConfig, {"zeta": -1}, "key 'x.zeta' = -1"),
        (SamplerConfig, {"num_steps": 2.5}, "key 'x.num_steps' = 2.5"),
        (SamplerConfig, {"num_steps": True}, "key 'x.num_steps' = True"),
        (SamplerConfig, {"order": 3}, "key 'x.order' = 3"),
        (SamplerConfig, {"consistency": "no"}, "key 'x.consistency' = 'no'"),
        (SamplerConfig, {"name": "ddim"}, "key 'x.name' = 'ddim': input should be 'dps', 'daps'"),
        (SamplerConfig, {"sigma_data": 0.05}, "unknown key 'x.sigma_data'"),
        (PriorConfig, {"network": {"nff": 1}}, "unknown key 'x.network.nff'"),
        (PriorConfig, {"training": {"grad_clip": 0}}, "key 'x.training.grad_clip' = 0"),
        (PriorConfig, {"diffusion": {"gain_db": [1.0]}}, "x.diffusion.gain_db"),
        (PriorConfig, {"diffusion": {"gain_db": [5, -10]}}, "the lowest, then the highest"),
        (PriorConfig, {"diffusion": {"sigma_min": 1, "sigma_max": 1}}, "above sigma_min, 1"),
        (PriorConfig, {"network": {"ch_mult": []}}, "x.network.ch_mult"),
        (PriorConfig, {"network": {"n_fft": 62, "hop_length": 64}}, "at most n_fft, 62"),
        (PriorConfig, {"training": {"ema_decay": 1.0}}, "x.training.ema_decay"),
        (PriorConfig, {"training": {"warmup_samples": -1}}, "x.training.warmup_samples"),
        (MixturesConfig, {"num_speakers": []}, "key 'x.num_speakers' = []"),
        (MixturesConfig, {"snr_db": [10, 0]}, "the lowest, then the highest"),
        (MixturesConfig, {"seconds": 1e-9}, "key 'x.seconds' = 1e-09"),
        (config.Seed, 10**30, "key 'x' = 1000000000000000000000000000000"),
        (CorpusConfig, {}, "missing key 'x.root'"),
        (CorpusConfig, 3, "key 'x' = 3"),
    ],
)
def test_a_bad_value_is_one_line_naming_the_key(cls, values, message):
    with pytest.raises(DavssError) as caught:
        parse(cls, values, "x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "daps", "zeta": 1.0}, "'zeta': a setting of dps, not of daps; leave it out"),
        ({"inner_noise": 0.5}, "'inner_noise': a setting of daps, not of dps"),
        ({"name": "daps", "consistency": True}, "'consistency': a setting of dps and pseudo"),
        ({"name": "pseudo", "order": 2}, "'order': a setting of dps, not of pseudo"),
    ],
)
def test_a_setting_of_another_sampler_is_refused_by_name(settings, message):
    with pytest.raises(DavssError, match=message):
        SamplerConfig(**settings)
    with pytest.raises(DavssError, match=message.replace("'", "'sampler.", 1)):
        parse(SamplerConfig, settings, "sampler")


def test_the_public_constructor_takes_the_names_of_all_samplers():
    shared = {"num_steps": 4, "guidance_weight": 0.1, "sigma_max": 0.4, "sigma_min": 1e-3}
    shared |= {"rho": 7.0, "s_churn": 2.0, "compression": 0.5, "num_samples": 2}
    dps = SamplerConfig(name="dps", zeta=0.3, order=2, **shared)
    assert isinstance(dps, DpsConfig) and isinstance(dps, SamplerConfig)
    assert dps == DpsConfig(zeta=0.3, order=2, **shared) == SamplerConfig(**vars(dps))
    daps = SamplerConfig(name="daps", inner_noise=0.5, **shared)
    assert isinstance(daps, DapsConfig) and daps.inner_noise == 0.5
    for sampler in (dps, daps, SamplerConfig(name="pseudo")):
        assert pickle.loads(pickle.dumps(sampler)) == sampler == copy.deepcopy(sampler)
        assert dataclasses.replace(sampler, num_steps=9).num_steps == 9


@pytest.mark.parametrize("cls", [*SAMPLERS.values(), config.SeparationConfig])
def test_every_setting_says_what_it_means(cls):
    assert all(config.meaning(cls, name) for name in config.names_of(cls))


def test_not_a_number_is_refused():
    with pytest.raises(DavssError, match="zeta"):
        parse(SamplerConfig, {"zeta": float("nan")}, "sampler")


def test_load_section(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("sampler:\n  zeta: 0.7\ncorpora:\n  wham:\n    root: here\n")
    assert load_section(path, "sampler", SamplerConfig).zeta == 0.7
    assert load_section(path, "corpora.wham", CorpusConfig).root == "here"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such params file"),
        ("other:\n  a: 1\n\tb: 2\n", "line 3: found character '\\t'"),
        ("sampler: {zeta: 1, zeta: 2}", "line 1: the key 'zeta' comes twice"),
        ("sampler: &a [*a]", "key 'sampler': circular reference"),
        ("sampler: !!set {dps}", "key 'sampler': object of type set"),
        ("sampler: [", "not valid YAML"),
        ("sampler: {zeta: é}".encode("latin-1"), "not valid YAML"),
        ("other: 1\n", "missing key 'sampler'"),
        ("", "missing key 'sampler'"),
        ("sampler:\n  zetta: 1\n", "unknown key 'sampler.zetta'"),
    ],
)
def test_load_section_names_the_file(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DavssError) as caught:
        load_section(path, "sampler", SamplerConfig)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_a_params_file_that_is_none(tmp_path):
    for path in (tmp_path, tmp_path / "params.yaml" / "x"):  # Docker makes folders of absent files
        (tmp_path / "params.yaml").touch()
        with pytest.raises(DavssError, match="cannot be read .* make one with"):
            load_section(path, "sampler", SamplerConfig)


def test_numbers_are_read_as_dvc_writes_them(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: 1e-05\nb: -2E3\nc: 1_000\nd: .5\ne: 0x1f\nf: 0\ng: -0.0\n")
    numbers = read_yaml(path)
    assert numbers == {"a": 1e-5, "b": -2e3, "c": 1000, "d": 0.5, "e": 31, "f": 0, "g": 0.0}
    path.write_text("a: 1:30\nb: 010\nc: 2024-01-01\nd: e5\ne: '1e5'\nf: 1.2.3\n")
    assert all(isinstance(value, str) for value in read_yaml(path).values())
    path.write_text("a: &a {x: 1}\nb: {<<: *a, x: 2}\n")
    assert read_yaml(path)["b"] == {"x": 2}
    params = Path(__file__).parents[1] / "params.yaml"
    assert read_yaml(params) == yaml.safe_load(params.read_text(encoding="utf-8"))


def test_settings_survive_json():
    prior = PriorConfig()
    assert parse(PriorConfig, json.loads(json.dumps(config.to_dict(prior)))) == prior


def test_digest_follows_every_part():
    sampler = SamplerConfig()
    changed = dataclasses.replace(sampler, zeta=0.7)
    digests = {
        config.digest(sampler),
        config.digest(changed),
        config.digest(sampler, "wham"),
        config.digest(sampler, {"seed": 0}),
    }
    assert len(digests) == 4 and all(len(value) == 12 for value in digests)
    assert config.digest(sampler) == config.digest(SamplerConfig())
