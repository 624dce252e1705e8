"""Settings: strict parsing that names the key, sections of a params file, digests."""

import dataclasses
import json

import pytest

from davss import config
from davss.config import CorpusConfig, PriorConfig, SamplerConfig, load_section, parse
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
        (SamplerConfig, {"warm_start": "no"}, "key 'x.warm_start' = 'no'"),
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
        ("other: 1\n", "missing key 'sampler'"),
        ("", "missing key 'sampler'"),
        ("sampler:\n  zetta: 1\n", "unknown key 'sampler.zetta'"),
    ],
)
def test_load_section_names_the_file(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
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
