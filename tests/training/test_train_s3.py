"""Training whose shards lie in a bucket, and its state in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from davss.diffusion.prior import load_prior
from davss.storage import LocalStore, open_store
from pipelines.train_prior import main
from tests.training.conftest import write_corpus


@pytest.mark.slow
def test_a_prior_trained_from_a_bucket_is_the_same(project, s3, monkeypatch):
    write_corpus("wham", False, monkeypatch)
    monkeypatch.setenv("DAVSS_NUM_WORKERS", "1")
    main(["wham"])
    expected = Path("data/priors/wham/weights.safetensors").read_bytes()

    bucket, folder = open_store(f"s3://{s3.bucket}/davss"), LocalStore(Path("storage"))
    for entry in list(folder.list("shards")):
        bucket.put(folder.local(entry.name), entry.name)
    monkeypatch.setenv("DAVSS_STORAGE", f"s3://{s3.bucket}/davss")
    monkeypatch.setenv("DAVSS_STATE", "state")
    main(["wham"])
    assert Path("data/priors/wham/weights.safetensors").read_bytes() == expected
    assert load_prior("data/priors/wham").sample_rate == 8000
    assert list(Path("state/training").glob("wham-*/checkpoints/*"))
    assert not [entry for entry in bucket.list("") if not entry.name.startswith("shards/")]
