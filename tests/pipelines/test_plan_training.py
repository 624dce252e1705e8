"""The dry run counts the network that would be trained."""

from davss.networks import NCSNpp
from pipelines.compose import compose
from pipelines.train_prior import main


def test_lips_of_lipsound_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(compose("small"))
    main(["speech", "--dry-run"])
    # 48 eigenlips, as many differences, 20 bands
    network = NCSNpp(nf=16, n_fft=254, fourier_scale=2.0, spectral=True, film_dim=116)
    count = sum(p.numel() for p in network.parameters())
    assert f"parameters:    {count:,}" in capsys.readouterr().out
