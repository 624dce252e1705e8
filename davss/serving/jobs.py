"""Recordings and what becomes of them, one at a time.

Looking for faces and separating are programs of their own: whatever the command line can do works
here, and stopping is ending a program.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from davss.errors import DavssError

PROGRESS = re.compile(r"(\d+)/(\d+) \[[^<]*<([\d:]+|\?),")  # of a bar of tqdm
GRACE = 5.0  # s that a program has to end itself
LONGEST_NAME = 60  # characters, of up to 4 bytes


@dataclass
class Job:
    """A recording in a folder of its own.

    `state` is "queued", "looking" for faces, "ready" for a choice, "separating", "done", or
    "failed" where the recording cannot be used; `error` says why, also when a separation has
    failed. `done` is the share of it, `left` the seconds it will still take, where that is known.
    """

    folder: Path
    recording: Path
    state: str = "queued"
    error: str = ""
    done: float | None = None
    left: int | None = None
    faces: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float | None = None
    files: list[str] = field(default_factory=list)
    number: int = 0  # in the order in which work was asked for
    task: asyncio.Task[None] | None = None

    @property
    def out(self) -> Path:
        """The folder of results."""
        return self.folder / "out"

    @property
    def archive(self) -> Path:
        """The file that holds all results, once somebody has asked for it."""
        return self.folder / f"{self.recording.stem}.zip"

    @property
    def busy(self) -> bool:
        """Whether a program works for it, or it waits for its turn."""
        return self.task is not None and not self.task.done()

    def hear(self, line: str) -> None:
        """Take note of the progress that a line may tell."""
        if match := PROGRESS.search(line):
            self.done = int(match[1]) / max(int(match[2]), 1)
            parts = match[3].split(":") if match[3] != "?" else []
            self.left = sum(int(n) * 60**k for k, n in enumerate(parts[::-1])) if parts else None


class Jobs:
    """All recordings, below a folder; `flags` are given to every separation."""

    def __init__(self, folder: Path, flags: Sequence[str] = ()) -> None:
        self.folder, self.flags = folder, flags
        self.all: dict[str, Job] = {}
        self._turn, self._numbers = asyncio.Lock(), count()

    def add(self, name: str) -> tuple[str, Job]:
        """A recording that is going to be called `name`, and the word that it is known by."""
        word = secrets.token_urlsafe(12)
        folder = self.folder / word
        (folder / "in").mkdir(parents=True)
        self.all[word] = Job(folder, folder / "in" / clean(name))
        return word, self.all[word]

    def ahead(self, job: Job) -> int:
        """How many are busy since before it was."""
        return sum(one.busy and one.number < job.number for one in self.all.values())

    def look(self, job: Job) -> None:
        """Look for the faces of a recording, and whether it can be used at all."""
        found = job.folder / "faces.json"

        def finish() -> None:
            content = json.loads(found.read_text())
            job.faces, job.notes = content["faces"], content["notes"]
            job.seconds = content["seconds"]

        command = ["davss.serving.looking", str(job.recording), str(found)]
        self._start(job, ("looking", "ready", "failed"), command, finish)

    def separate(self, job: Job, chosen: Sequence[int], unseen: int) -> None:
        """Separate it into the faces `chosen` by number and `unseen` more voices; one where there
        is neither.
        """
        if chosen:
            given = job.folder / "chosen.json"
            faces = [job.faces[number] | {"speaker": k + 1} for k, number in enumerate(chosen)]
            given.write_text(json.dumps(faces))
            who = ["--faces", str(given), "--off-screen", str(unseen)]
        else:
            who = ["--speakers", str(max(unseen, 1))]
        job.archive.unlink(missing_ok=True)
        job.files = []

        def finish() -> None:
            job.files = json.loads((job.out / "separation.json").read_text())["files"]

        command = ["davss", "separate", str(job.recording), "--out", str(job.out), "--preview"]
        states = "separating", "done", "ready"
        self._start(job, states, [*command, *who, *self.flags], finish)

    def _start(
        self,
        job: Job,
        states: tuple[str, str, str],
        command: Sequence[str],
        finish: Callable[[], None],
    ) -> None:
        """Run a module for a job when it is its turn; `states` are during, after and without
        success.
        """
        job.state, job.error, job.done, job.left = "queued", "", None, None
        job.number = next(self._numbers)

        async def work() -> None:
            try:
                async with self._turn:
                    job.state = states[0]
                    await run(command, job.hear)
                    finish()
                    job.state = states[1]
            except (DavssError, OSError) as error:
                job.error = str(error).replace(f"{job.recording.parent}{os.sep}", "")
                job.state = states[2]

        job.task = asyncio.create_task(work())

    async def stop(self, job: Job) -> None:
        """End what is done for it; it is then as before a choice, faces or none."""
        if job.task is not None and job.task.cancel():
            await asyncio.wait([job.task])
            job.state = "ready"

    async def remove(self, word: str) -> None:
        """Forget a recording, and remove all of its files."""
        job = self.all.pop(word)
        await self.stop(job)
        await asyncio.to_thread(shutil.rmtree, job.folder, ignore_errors=True)

    async def close(self) -> None:
        """End all work."""
        await asyncio.gather(*map(self.stop, self.all.values()))


def clean(name: str) -> str:
    """A name for a file that came from elsewhere: letters, digits, spaces and -_.() alone."""
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^\w .()-]", "_", last)[-LONGEST_NAME:].lstrip(" .-").rstrip() or "recording"


async def run(command: Sequence[str], hear: Callable[[str], None]) -> None:
    """Run a module of Python in a group of processes, which ends when this is cancelled.

    `hear` gets its lines on stderr, also unfinished ones. DavssError with the last of them when it
    fails.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "davss.serving.child", *command),
        stdin=asyncio.subprocess.PIPE,  # it ends when this process does
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    said, rest = "", b""
    try:
        while chunk := await process.stderr.read(1 << 16):
            *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
            for line in [*lines, rest]:
                hear(line.decode(errors="replace"))
            said = next((line for line in reversed(lines) if line.strip()), b"").decode() or said
        status = await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), GRACE)
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status:
        if said.startswith("error: "):
            raise DavssError(said.removeprefix("error: "))
        raise DavssError(f"{command[0]} ended with status {status}: {said or 'it said nothing'}")
