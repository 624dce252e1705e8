"""Settings: strict parsing that names the key, sections of a params file, digests."""

import copy
import dataclasses
import json
import pickle

import pytest

from davss import config
from davss.config import (
    SAMPLERS,
    CorpusConfig,
    DapsConfig,
    DpsConfig,
    PriorConfig,
    SamplerConfig,
    load_section,
    parse,
)
from davss.errors import DavssError


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
