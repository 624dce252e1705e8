"""Training whose shards and state lie in a bucket, and nowhere else."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest

from davss.diffusion.prior import load_prior
from davss.storage import LocalStore, open_store
from pipelines.train_prior import main
from tests.training.conftest import write_corpus


@pytest.mark.slow
def test_a_prior_trained_from_a_bucket_is_the_same(project, s3, monkeypatch, request):
    write_corpus("wham", False, monkeypatch)
    monkeypatch.setenv("DAVSS_NUM_WORKERS", "1")
    main(["wham"])
    expected = Path("data/priors/wham/weights.safetensors").read_bytes()

    shutil.rmtree("storage/training")
    bucket, folder = open_store(f"s3://{s3.bucket}/davss"), LocalStore(Path("storage"))
    for entry in list(folder.list("shards")):
        bucket.put(folder.local(entry.name), entry.name)
    monkeypatch.setenv("DAVSS_STORAGE", f"s3://{s3.bucket}/davss")
    monkeypatch.setattr(tempfile, "tempdir", None)
    for number in range(2):  # two machines: the second has nothing but the bucket
        folder = Path(tempfile.mkdtemp(prefix=f"node{number}-", dir="/tmp"))
        request.addfinalizer(partial(shutil.rmtree, folder))
        monkeypatch.setenv("TMPDIR", str(folder))
        tempfile.tempdir = None
        main(["wham"])
    assert Path("data/priors/wham/weights.safetensors").read_bytes() == expected
    assert load_prior("data/priors/wham").sample_rate == 8000
    names = [entry.name for entry in bucket.list("training")]
    assert [name for name in names if "/checkpoints/checkpoint-" in name]
    assert [name for name in names if name.endswith("/train.log")]
    assert not Path("storage/training").exists()
