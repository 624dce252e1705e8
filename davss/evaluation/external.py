"""Other people's enhancers as separators: `davss.evaluation.peers` at work in another environment.

They hear one speaker in noise and give back the speech; what they leave is the noise.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import soundfile
import torch
from torch import Tensor

from davss.errors import DavssError
from davss.evaluation import peers

PROGRAM = Path(peers.__file__)


def installed_peers(python: Path, program: Path | None = None) -> list[str]:
    """Names of the enhancers in the environment of `python`; DavssError when their program fails
    there.
    """
    program = program or PROGRAM
    done = subprocess.run([str(python), str(program)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise DavssError(f"{python}: {program.name} failed; install the extra 'peers' there")
    return done.stdout.split()


class Peer:
    """One enhancer, in a process of its own as long as this object lives."""

    dtype = torch.float32

    def __init__(self, name: str, python: Path, program: Path | None = None) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [str(python), str(program or PROGRAM), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __del__(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()  # ends it
        self.process.stdout.close()
        self.process.wait()

    def __call__(
        self, mixture: Tensor, *, num_speakers: int, sample_rate: int, **_: Any
    ) -> SimpleNamespace:
        """Like a Separator, of mixtures (B, T) of one speaker; lips, keys and seed say nothing to
        it. DavssError when it dies or gives back another length.
        """
        if num_speakers != 1:
            raise DavssError(f"{self.name}: enhances the speech of one speaker, not {num_speakers}")
        with TemporaryDirectory() as folder:
            speech = [self._enhance(one, sample_rate, Path(folder)) for one in mixture]
        found = torch.stack(speech)
        return SimpleNamespace(
            speech=found[:, None],
            noise=mixture - found,
            trace={},
            errors=[None] * len(mixture),
            num_evaluations=0,
        )

    def _enhance(self, mixture: Tensor, rate: int, folder: Path) -> Tensor:
        noisy, out = folder / "noisy.wav", folder / "out.wav"
        soundfile.write(noisy, mixture.numpy(), rate, subtype="FLOAT", format="WAV")
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(f"{noisy}\t{out}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has no answer either
        if self.process.stdout.readline() != "ok\n":
            raise DavssError(f"{self.name}: ended with an error; run the program {PROGRAM.name}")
        audio, found_rate = soundfile.read(out, dtype="float32")
        if found_rate != rate or audio.shape != tuple(mixture.shape):
            raise DavssError(f"{self.name}: returned another rate or length")
        return torch.from_numpy(audio)
