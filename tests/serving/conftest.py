"""A running `davss serve` whose priors are tiny."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from davss.diffusion.prior import save_prior
from tests.priors import make_noise_prior, make_speech_prior

ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    """The process, its address, and the folder where its temporary files lie."""

    process: subprocess.Popen[str]
    url: str
    temporary: Path

    @property
    def client(self) -> httpx.Client:
        """For requests."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def working(self) -> list[str]:
        """Commands of the programs that work for it now."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes().decode().replace("\0", " ")
            except OSError:  # it has ended
                continue
            if f"{self.temporary}/" in command and "serve" in command:
                found.append(command)
        return found

    def end(self) -> None:
        """As the system ends it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def start(folder: Path) -> Server:
    """A server with tiny priors, whose temporary files lie below `folder`."""
    save_prior(make_speech_prior(), folder / "speech")
    save_prior(make_noise_prior(), folder / "noise")
    (folder / "tmp").mkdir()
    flags = f"--speech-prior {folder}/speech --noise-prior {folder}/noise --device cpu"
    flags += " --num-steps 2 --num-samples 1"
    command = [sys.executable, "-m", "davss", "serve", "--port", "0", "--", *flags.split()]
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    return Server(process, process.stdout.readline().strip(), folder / "tmp")


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """One for all tests that leave it running."""
    one = start(tmp_path_factory.mktemp("serve"))
    yield one
    one.end()
