"""Warm starts from priors and from files laid out as public checkpoints are."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from davss.cli import main
from davss.config import DiffusionConfig, NetworkConfig
from davss.diffusion.prior import NoisePrior, PriorInfo, load_prior, save_prior
from davss.diffusion.public import read_weights, source_digest
from davss.errors import DavssError
from davss.networks import NCSNpp
from davss.training.warm_start import warm_start
from tests.priors import INFO, make_noise_prior, make_speech_prior


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def network_weights() -> dict[str, torch.Tensor]:
    return dict(make_noise_prior().network.state_dict())


def shifted(weights: dict) -> dict:
    return {name: value + 1 for name, value in weights.items()}


def layouts(weights: dict) -> dict[str, object]:
    """One network as different projects save it; where there is an EMA it is `weights`."""
    raw = shifted(weights)
    raw["all_modules.0.W"] = weights["all_modules.0.W"]
    trained = [value for name, value in weights.items() if name != "all_modules.0.W"]
    other = {f"denoiser_net.{k}": v + 5 for k, v in weights.items()}
    dnn = OrderedDict((f"dnn.{k}", v) for k, v in raw.items())
    return {
        "bare": weights,
        "buddy": {"it": 5, "network": raw, "ema": weights},
        "ddp": {"model": {f"module.{k}": v for k, v in weights.items()}},
        "sgmse": {"state_dict": dnn, "ema": {"shadow_params": list(weights.values())}},
        "older": {"state_dict": dnn, "ema": {"shadow_params": trained, "num_updates": 3}},
        "storm": {"state_dict": other | {f"score_net.{k}": v for k, v in weights.items()}},
    }


@pytest.mark.parametrize("name", ["bare", "buddy", "ddp", "sgmse", "older", "storm"])
def test_public_layouts(tmp_path, name):
    weights = network_weights()
    torch.save(layouts(weights)[name], tmp_path / "public.ckpt")
    assert same(read_weights(tmp_path / "public.ckpt"), weights)


def test_audio_only_becomes_audio_visual(tmp_path):
    save_prior(make_noise_prior(), tmp_path / "source")
    source, prior = load_prior(tmp_path / "source"), make_speech_prior()
    for parameter in prior.network.film.sites.parameters():
        torch.nn.init.zeros_(parameter)  # as training begins
    lines = warm_start(prior, tmp_path / "source")
    assert lines == [f"init_from {tmp_path / 'source'}: 'film' starts at zero, without effect"]
    u, sigma = torch.randn(2, 1600), torch.tensor([0.1, 0.3])
    with torch.no_grad():
        one = source(u, sigma)
        for lips in (None, torch.randn(2, 5, 6)):
            torch.testing.assert_close(prior.eval()(u, sigma, lips), one)


def test_a_speech_prior_is_taken_over_whole(tmp_path):
    source, prior = make_speech_prior(), make_speech_prior()
    with torch.no_grad():
        for parameter in source.network.parameters():
            parameter.add_(0.1)
    save_prior(source, tmp_path / "source")
    assert warm_start(prior, tmp_path / "source") == []
    assert same(prior.network.state_dict(), source.network.state_dict())


def test_what_does_not_fit_is_named(tmp_path):
    weights = network_weights()
    weights["all_modules.3.weight"] = torch.zeros(8, 4, 3, 3)  # of a conditional network
    weights["all_modules.99.extra"] = torch.zeros(3)
    del weights["output_layer.bias"]
    torch.save({"state_dict": weights}, tmp_path / "public.pt")
    prior = make_noise_prior()
    before = prior.network.all_modules[3].weight.clone()
    text = "\n".join(warm_start(prior, tmp_path / "public.pt"))
    assert "'all_modules.3.weight' has shape (8, 4, 3, 3) there, (8, 2, 3, 3) here" in text
    assert "'output_layer.bias' is missing there" in text
    assert "'all_modules.99.extra' is unknown here" in text and text.count("\n") == 2
    assert torch.equal(prior.network.all_modules[3].weight, before)


def test_another_size_is_refused(tmp_path):
    network = NetworkConfig(nf=16, ch_mult=(1, 2), n_fft=62, hop_length=32)
    save_prior(NoisePrior(PriorInfo(8000, network, DiffusionConfig())), tmp_path / "wide")
    with pytest.raises(DavssError, match=r"another network \('all_modules.*nf and ch_mult"):
        warm_start(make_noise_prior(), tmp_path / "wide")


def test_bad_files_are_one_line(tmp_path):
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "b.ckpt")
    with pytest.raises(DavssError, match="no parameter 'all_modules"):
        read_weights(tmp_path / "b.ckpt")
    (tmp_path / "c.ckpt").write_bytes(b"")
    with pytest.raises(DavssError, match=r"c\.ckpt"):
        read_weights(tmp_path / "c.ckpt")
    with pytest.raises(DavssError, match="no such file"):
        read_weights(tmp_path / "d.ckpt")
    torch.save(
        {"state_dict": network_weights(), "ema": {"shadow_params": [torch.zeros(2)]}},
        tmp_path / "e.ckpt",
    )
    with pytest.raises(DavssError, match="1 averaged weights do not match"):
        read_weights(tmp_path / "e.ckpt")


def test_convert(tmp_path, capsys):
    torch.manual_seed(0)
    network = NCSNpp(nf=8, n_fft=126, hop_length=64)
    torch.save(layouts(dict(network.state_dict()))["sgmse"], tmp_path / "public.ckpt")
    flags = ["--sample-rate", "8000", "--n-fft", "126", "--hop-length", "64"]
    main(["convert", str(tmp_path / "public.ckpt"), str(tmp_path / "out"), *flags])
    prior = load_prior(tmp_path / "out")
    assert isinstance(prior, NoisePrior) and prior.sample_rate == 8000
    assert same(prior.network.state_dict(), dict(network.state_dict()))
    assert prior.info.training["sha256"] == source_digest(tmp_path / "public.ckpt")
    make_speech_prior().visual_encoder.save(tmp_path / "eigenlips.safetensors")
    encoder = ["--visual-encoder", str(tmp_path)]
    main(["convert", str(tmp_path / "public.ckpt"), str(tmp_path / "speech"), *flags, *encoder])
    assert load_prior(tmp_path / "speech").visual_encoder.dim == 6
    capsys.readouterr()
    for arguments, message in (
        ([str(tmp_path / "public.ckpt"), str(tmp_path / "out")], "exists already"),
        ([str(tmp_path / "none.ckpt"), str(tmp_path / "new")], "no such file"),
    ):
        with pytest.raises(SystemExit):
            main(["convert", *arguments])
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_the_golden_checkpoint_of_a_public_network(tmp_path):
    keys = Path(__file__).parents[3] / "shared/golden/ncsnpp_m_nf16.keys.json"
    if not keys.is_file():
        pytest.skip(f"{keys}: not here")
    shapes = json.loads(keys.read_text())
    weights = {f"dnn.{name}": torch.randn(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": weights}, tmp_path / "public.ckpt")
    network = NetworkConfig(nf=16)
    assert (
        warm_start(NoisePrior(PriorInfo(16000, network, INFO.diffusion)), tmp_path / "public.ckpt")
        == []
    )
