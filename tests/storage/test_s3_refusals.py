"""What a bucket's server refuses, and settings that boto3 refuses, without a server of S3."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from davss.errors import StorageError
from davss.storage import s3 as module
from davss.storage.cache import Cache
from davss.storage.s3 import S3Store


@pytest.fixture
def refusing(monkeypatch, tmp_path):
    """A function that makes a server refuse everything with a status and a code."""
    answer = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = f"<Error><Code>{answer['code']}</Code></Error>".encode()
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = path\n")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    settings = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    settings |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    settings |= {"AWS_CONFIG_FILE": f"{tmp_path}/config", "AWS_MAX_ATTEMPTS": "1"}
    settings |= {"AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/none"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    module._client_of.cache_clear()
    yield lambda status, code: answer.update(status=status, code=code)
    server.shutdown()
    server.server_close()
    module._client_of.cache_clear()


def line(tmp_path, bucket="bucket") -> str:
    module._client_of.cache_clear()
    store = S3Store(bucket, "x", Cache(tmp_path))
    with pytest.raises(StorageError) as caught:  # nothing else: it must turn no clip into a reject
        store.stat("y")
    with pytest.raises(StorageError):
        list(store.list(""))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "mend"),
    [
        (403, "RequestTimeTooSkewed", "the clock of this machine is wrong"),
        (400, "ExpiredToken", "the credentials have expired"),
        (400, "AuthorizationHeaderMalformed", "set AWS_DEFAULT_REGION"),
        (400, "Whatever", "the server refuses it (Whatever); check the AWS credentials"),
        (403, "AccessDenied", "access denied (AccessDenied); check AWS_ACCESS_KEY_ID"),
        (503, "SlowDown", "again and again; run it again later"),
    ],
)
def test_a_refusal_has_its_name_and_its_mend(refusing, tmp_path, status, code, mend):
    refusing(status, code)
    assert mend in line(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_MAX_ATTEMPTS", "abc", "AWS_MAX_ATTEMPTS=abc: give the number of attempts"),
        ("AWS_MAX_ATTEMPTS", "0", "AWS_MAX_ATTEMPTS=0: give"),
        ("AWS_PROFILE", "nobody", "The config profile (nobody) could not be found; correct"),
        ("AWS_PROFILE", "", "The config profile () could not be found; correct the AWS_"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "Invalid endpoint: 127.0.0.1:9000; correct"),
        ("AWS_SESSION_TOKEN", "hidden\r", "a key or token in AWS_… holds a line break"),
        ("http_proxy", "http://127.0.0.1:9", "check http_proxy, https_proxy and no_proxy"),
    ],
)
def test_a_setting_that_is_refused_is_named(refusing, tmp_path, monkeypatch, name, value, message):
    refusing(403, "AccessDenied")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv(name, value)
    found = line(tmp_path)
    assert message in found and "hidden" not in found


def test_empty_attempts_and_a_name_that_no_bucket_has(refusing, tmp_path, monkeypatch):
    refusing(403, "AccessDenied")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "")
    assert "access denied" in line(tmp_path)
    assert "'My Bucket' cannot be the name of a bucket" in line(tmp_path, "My Bucket")


def test_a_broken_config_and_a_login_that_ended(refusing, tmp_path, monkeypatch):
    (tmp_path / "config").write_text("garbage\n")
    assert "Unable to parse config file" in line(tmp_path)
    login = "sso_start_url=https://x.example.org\nsso_region=eu-west-1\n"
    login += "sso_account_id=1\nsso_role_name=r\n"
    (tmp_path / "config").write_text(f"[default]\n{login}")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    found = line(tmp_path)
    assert "SSO" in found and "log in again" in found and "no connection" not in found
