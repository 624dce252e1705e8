"""Buckets as stores, through boto3: uploads in parts, retries with growing pauses, checksums.

Credentials, region and endpoint come from the standard AWS environment (AWS_ACCESS_KEY_ID,
AWS_PROFILE, AWS_ENDPOINT_URL …). A request that fails is tried AWS_MAX_ATTEMPTS times (default 12,
with a minute or so of pauses: a server has time to start again); a part of a download that breaks
off is read again, an object that changes meanwhile is an error.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import boto3
import botocore.exceptions as problems
from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from s3transfer.exceptions import S3DownloadFailedError
from urllib3.exceptions import HTTPError

from davss.errors import DavssError, StorageError, say
from davss.storage.cache import Cache
from davss.storage.files import full_disk_explained, publish, sha256
from davss.storage.store import S3, Entry

PART = 64 << 20  # bytes that are uploaded at once; larger files go in parts
ATTEMPTS = 12
PATIENCE = 4  # failures of a request after which it is said that it is tried again
DIGEST = "sha256"  # name of an object's metadata
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "Forbidden"}
_DENIED |= {"InvalidToken", "401"}
_BUSY = {"408", "429", "RequestTimeout", "SlowDown", "TooManyRequests"}
_BARE = {"301", "400", "403"}  # what a HEAD, whose answers have no text, says of all refusals
_REGION = "set AWS_DEFAULT_REGION, or the endpoint, to those of the bucket"
_MENDS = {
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "ExpiredToken": "the credentials have expired: renew them",
    "InvalidObjectState": "the object is archived: restore it first",
    **dict.fromkeys(("AuthorizationHeaderMalformed", "PermanentRedirect", "301"), _REGION),
}
# What boto3 cannot make of variables and files, and logins that have ended.
_SETTINGS = (
    *(problems.ConfigNotFound, problems.ConfigParseError, problems.InvalidConfigError),
    *(problems.ProfileNotFound, problems.CredentialRetrievalError, problems.SSOError),
    *(problems.TokenRetrievalError, problems.MetadataRetrievalError, problems.NoRegionError),
)


@dataclass(frozen=True)
class S3Store:
    """Objects below a prefix of a bucket; can be pickled. `cache` is a folder of whichever machine
    reads.
    """

    bucket: str
    prefix: str
    cache: Cache = Cache()

    @classmethod
    def of_url(cls, url: str, cache: Cache | None = None) -> S3Store:
        """The store of `s3://bucket/prefix`; the prefix may be absent."""
        bucket, _, prefix = url.removeprefix(S3).partition("/")
        if not bucket:
            raise DavssError(f"{url}: no bucket; expected s3://bucket/prefix")
        return cls(bucket, prefix.strip("/"), cache or Cache())

    def locate(self, name: str) -> str:
        """See Store."""
        return f"{S3}{self.bucket}/{self._key(name)}"

    def stat(self, name: str) -> Entry | None:
        """See Store."""
        with self._explained(name):
            try:
                head = _client().head_object(Bucket=self.bucket, Key=self._key(name))
            except problems.ClientError as error:
                if _code(error) not in _ABSENT:
                    raise
                _client().head_bucket(Bucket=self.bucket)  # or is the bucket itself missing?
                return None
        return Entry(name, head["ContentLength"], head["ETag"])

    def open(self, name: str) -> BinaryIO:
        """See Store: downloaded to $TMPDIR, to a file that goes when it is closed."""
        with self.scratch("") as folder:
            self.fetch(name, folder / "object")
            return open(folder / "object", "rb")

    def local(self, name: str) -> Path:
        """See Store: downloaded to the cache once, and again where it had to go."""
        return self.cache.get(f"{self.bucket}/{self._key(name)}", partial(self.fetch, name))

    def fetch(self, name: str, path: Path) -> None:
        """See Store."""
        if self.stat(name) is None:  # the bucket is there
            raise DavssError(f"{self.locate(name)}: no such object; check the path")
        with publish(path) as temporary, self._explained(name):
            _client().download_file(
                self.bucket, self._key(name), str(temporary), Config=_transfer()
            )

    def put(self, path: Path, name: str) -> None:
        """See Store; boto3 sends a checksum with every part, and the size is compared after."""
        size, about = path.stat().st_size, {"Metadata": {DIGEST: sha256(path)}}
        with self._explained(name):
            _client().upload_file(
                str(path), self.bucket, self._key(name), ExtraArgs=about, Config=_transfer()
            )
        stored = self.stat(name)
        if stored is None or stored.size != size:
            raise StorageError(f"{self.locate(name)}: {size} bytes did not arrive; run it again")
        path.unlink()

    def list(self, folder: str) -> Iterator[Entry]:
        """See Store."""
        prefix = self._key(folder).rstrip("/")
        prefix = f"{prefix}/" if prefix else ""
        pages = _client().get_paginator("list_objects_v2")
        start = len(f"{self.prefix}/") if self.prefix else 0
        with self._explained(folder):
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):  # some tools mark folders so
                        yield Entry(found["Key"][start:], found["Size"], found["ETag"])

    def holds(self, name: str, digest: str) -> bool:
        """See Store: by the digest that `put` wrote beside contents whose arrival was proved."""
        with self._explained(name):
            try:
                head = _client().head_object(Bucket=self.bucket, Key=self._key(name))
            except problems.ClientError as error:
                if _code(error) not in _ABSENT:
                    raise
                return False
        return bool(head["Metadata"].get(DIGEST) == digest)

    def remove(self, name: str) -> None:
        """See Store."""
        names = [name, *(entry.name for entry in self.list(name))]
        with self._explained(name):
            for each in names:
                _client().delete_object(Bucket=self.bucket, Key=self._key(each))

    @contextmanager
    def scratch(self, folder: str) -> Iterator[Path]:
        """See Store: below $TMPDIR."""
        root = Path(tempfile.gettempdir())
        with full_disk_explained(root), tempfile.TemporaryDirectory(prefix="davss-") as path:
            yield Path(path)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}".strip("/")

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn what boto3 raises into one line that names the object and the mend."""
        try:
            yield
        except S3UploadFailedError as error:
            raise self._error(name, error.__context__ or error) from None
        except RetriesExceededError as error:
            raise self._error(name, error.last_exception) from None
        except S3DownloadFailedError:
            raise StorageError(
                f"{self.locate(name)}: changed while it was read; run it again"
            ) from None
        except (problems.BotoCoreError, problems.ClientError, HTTPError) as error:
            raise self._error(name, self._named(error)) from None

    def _named(self, error: Exception) -> Exception:
        """The same refusal with its name, where the server tells it."""
        if _code(error) in _BARE:
            try:
                _client().list_objects_v2(Bucket=self.bucket, MaxKeys=1)
            except problems.ClientError as other:
                return other
            except (problems.BotoCoreError, HTTPError):
                return error
        return error

    def _error(self, name: str, error: BaseException) -> DavssError:
        reason = self._reason(name, error)
        missing = _code(error) in _ABSENT and _operation(error) != "HeadBucket"
        return DavssError(reason) if missing else StorageError(reason)

    def _reason(self, name: str, error: BaseException) -> str:
        url, code = self.locate(name), _code(error)
        if code == "NoSuchBucket" or (code in _ABSENT and _operation(error) == "HeadBucket"):
            return f"{url}: there is no bucket '{self.bucket}'; make it or correct its name"
        if code in _ABSENT:
            return f"{url}: no such object; check the path"
        if code in _MENDS:
            return f"{url}: the server refuses it ({code}); {_MENDS[code]}"
        if code in _DENIED:
            return (
                f"{url}: access denied ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
                "or AWS_PROFILE, and what they may do"
            )
        if code and _status(error) in range(400, 500) and code not in _BUSY:
            return (
                f"{url}: the server refuses it ({code}); check the AWS credentials, "
                "AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"
            )
        if code:
            return f"{url}: the server answers {code} again and again; run it again later"
        if isinstance(error, problems.NoCredentialsError | problems.PartialCredentialsError):
            return f"{url}: no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if isinstance(error, problems.ParamValidationError):
            return f"{url}: '{self.bucket}' cannot be the name of a bucket; correct it"
        if isinstance(error, _SETTINGS):
            return f"{url}: {_settings_line(error)}"
        reason = str(error).splitlines()[0].rstrip(".")
        if "Invalid header value" in reason:  # which would show it
            return f"{url}: a key or token in AWS_… holds a line break, maybe of Windows; remove it"
        proxy = isinstance(error, problems.ProxyConnectionError)
        check = "http_proxy, https_proxy and no_proxy" if proxy else "AWS_ENDPOINT_URL"
        return (
            f"{url}: no connection to {_client().meta.endpoint_url} ({reason}); check {check} "
            "and the network, and run it again"
        )


def _client() -> Any:
    return _client_of(os.getpid())  # connections do not survive a fork


@functools.lru_cache(maxsize=2)
def _client_of(process: int) -> Any:
    settings = Config(
        retries={"mode": "standard", "total_max_attempts": _attempts()},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    try:
        client = boto3.session.Session().client("s3", config=settings)
    except (problems.BotoCoreError, ValueError) as error:
        raise StorageError(f"s3://: {_settings_line(error)}") from None
    client.meta.events.register("needs-retry.s3", _say_that_it_waits)
    return client


def _attempts() -> int:
    text = os.environ.get("AWS_MAX_ATTEMPTS") or str(ATTEMPTS)
    if not text.isdecimal() or int(text) == 0:
        raise StorageError(f"AWS_MAX_ATTEMPTS={text}: give the number of attempts, 1 or more")
    return int(text)


def _settings_line(error: Exception) -> str:
    reason = " ".join(str(error).split()).rstrip(".:")
    return f"{reason}; correct the AWS_… variables or the files of ~/.aws, or log in again"


def _say_that_it_waits(attempts: int, caught_exception: Any, endpoint: Any, **_: Any) -> None:
    if attempts == PATIENCE and caught_exception is not None:
        say(f"{endpoint.host} does not answer; trying again for a minute or so")


def _transfer() -> TransferConfig:
    return TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _status(error: BaseException) -> int:
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _operation(error: BaseException) -> str:
    return str(getattr(error, "operation_name", ""))
