"""A real S3 server (SeaweedFS) on the loopback, and a proxy in front of it that makes trouble."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

import boto3
from botocore.config import Config

KEY, SECRET = "davss-key", "davss-secret"


class Server(NamedTuple):
    """Where the server listens, and a bucket that it holds."""

    port: int
    bucket: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    """A port nobody listens on, with room for SeaweedFS's second one 10000 above."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port < 55_000:
            return port
        with socket.socket() as probe:
            low = 20_000 + port % 30_000
            if probe.connect_ex(("127.0.0.1", low)):
                return low


def start(folder: Path) -> tuple[subprocess.Popen, int]:
    """A server with its data in `folder`; returns its process and port once it answers."""
    identity = {"name": "davss", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    identity["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    command = ["weed", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=1000", "-master.telemetry=false"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    wait_until_it_answers(ports["s3"], process, folder / "log")
    return process, ports["s3"]


def client(port: int):
    """A boto3 client that gives up at once."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=20),
    )


def wait_until_it_answers(port: int, process: subprocess.Popen, log: Path) -> None:
    """Until a first object has been stored: buckets exist before there is room for objects."""
    for _ in range(300):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            s3 = client(port)
            s3.create_bucket(Bucket="first")
            s3.put_object(Bucket="first", Key="x", Body=b"x")
            return
        except Exception:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


class Proxy(socketserver.ThreadingTCPServer):
    """Passes connections on to the server, but `cuts` of them only as far as `cut_after` bytes of
    the answer's body (−1: not even its head), and answers the first `unavailable` requests itself,
    with 503.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, server_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.server_port = server_port
        self.cuts = self.unavailable = self.cut_after = self.connections = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Connection(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        self.server.connections += 1
        if self.server.unavailable > 0:
            self.server.unavailable -= 1
            self.refuse()
            return
        limit = None
        if self.server.cuts > 0:
            self.server.cuts -= 1
            limit = self.server.cut_after
        with socket.create_connection(("127.0.0.1", self.server.server_port)) as upstream:
            forward = threading.Thread(target=pump, args=(self.request, upstream), daemon=True)
            forward.start()
            pump(upstream, self.request, limit)

    def refuse(self) -> None:
        self.request.settimeout(1)
        self.request.recv(1 << 16)
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"
        head = f"HTTP/1.1 503 Slow Down\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.request.sendall(head.encode() + body)


def pump(source: socket.socket, sink: socket.socket, limit: int | None = None) -> None:
    """Copy bytes until either side closes, or a head and `limit` bytes of its body have passed."""
    passed, end = 0, limit
    try:
        while end is None or passed == 0 or passed < end:
            data = source.recv(1 << 16)
            if not data or limit == -1:
                break
            if end is not None:
                if passed == 0:  # the head comes in one piece
                    end += data.index(b"\r\n\r\n") + 4
                data = data[: end - passed]
            sink.sendall(data)
            passed += len(data)
    except OSError:
        pass
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
