"""`davss serve` through its own requests: from an upload to the results, and what is refused."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx
import pytest
import soundfile
from tqdm import tqdm

from davss.media.audio import read_audio
from davss.serving import server as module
from davss.serving.jobs import Job, clean
from tests.serving.conftest import Server, start
from tests.test_install import BLOCK

VOICE = "pipelines/demo_data/speech/ru_f/confbridge-lock-extended.ogg"
RATE = 16_000


@pytest.fixture(scope="module")
def clip() -> bytes:
    """Two seconds of a real voice, as wav."""
    audio, _ = read_audio(Path(__file__).parents[2] / VOICE, RATE)
    buffer = io.BytesIO()
    soundfile.write(buffer, audio[RATE : 3 * RATE], RATE, format="WAV")
    return buffer.getvalue()


def give(client: httpx.Client, content: bytes, name: str) -> str:
    reply = client.post("/jobs", params={"name": name}, content=content)
    assert reply.status_code == 201, reply.text
    return f"/jobs/{reply.json()['id']}"


def until(client: httpx.Client, job: str, *states: str) -> dict:
    for _ in range(1200):
        now = client.get(job).json()
        if now["state"] in states:
            return now
        time.sleep(0.1)
    raise AssertionError(now)


def test_a_clip_from_the_upload_to_the_zip(server: Server, clip: bytes):
    client = server.client
    job = give(client, clip, "../..\\a <b>.wav")
    now = until(client, job, "ready", "failed")
    assert (now["name"], now["faces"], now["seconds"]) == ("a _b_.wav", [], 2.0)
    assert client.get(f"{job}/speaker_1.wav").status_code == 404
    reply = client.post(f"{job}/start", json={"faces": [], "unseen": 2})
    assert reply.status_code == 204
    assert client.post(f"{job}/start", json={"faces": [], "unseen": 2}).status_code == 409
    now = until(client, job, "done", "ready")
    sources = ["speaker_1.wav", "speaker_2.wav", "noise.wav"]
    assert (now["error"], now["done"], now["files"]) == ("", 1, [*sources, "preview.html"])
    for name in sources:
        audio, rate = soundfile.read(io.BytesIO(client.get(f"{job}/{name}").content))
        assert (len(audio), rate) == (2 * RATE, RATE)
    page = client.get(f"{job}/preview.html")
    assert page.text.count("<audio") == 4 and page.headers["x-frame-options"] == "SAMEORIGIN"
    with zipfile.ZipFile(io.BytesIO(client.get(f"{job}/a _b_.zip").content)) as archive:
        names = {f"a _b_/{name}" for name in [*now["files"], "separation.json"]}
        assert set(archive.namelist()) == names
        report = json.loads(archive.read("a _b_/separation.json"))
    assert report["num_speakers"] == 2 and report["sampler"]["num_steps"] == 2
    for name in ("..%2Fin%2Fa%20_b_.wav", "separation.json", "faces.json", "other.zip"):
        assert client.get(f"{job}/{name}").status_code == 404
    assert list(server.temporary.glob("davss-serve-*/*/in/a _b_.wav"))
    assert client.delete(job).status_code == 204 and client.get(job).status_code == 404
    assert not list(server.temporary.glob("davss-serve-*/*/in/a _b_.wav"))


def test_one_at_a_time_and_stopped(server: Server, clip: bytes):
    client = server.client
    first, second = give(client, clip, "first.wav"), give(client, clip, "second.wav")
    until(client, first, "looking")
    now = client.get(second).json()
    assert (now["state"], now["ahead"]) == ("queued", 1)
    (working,) = server.working()
    assert "first.wav" in working
    client.post(f"{first}/stop")
    assert client.get(first).json()["state"] == "ready"  # to be separated all the same
    until(client, second, "looking", "ready")
    assert all("second.wav" in command for command in server.working())
    client.post(f"{first}/start", json={"faces": [], "unseen": 1})
    client.delete(second)
    until(client, first, "separating", "done")
    client.delete(first)
    assert server.working() == []


def test_what_cannot_be_used_is_one_line(server: Server):
    client = server.client
    job = give(client, b"hello", "notes.txt")
    now = until(client, job, "failed", "ready")
    assert now["state"] == "failed" and now["error"].startswith("notes.txt: a text file")
    assert client.post(f"{job}/start", json={"faces": [], "unseen": 1}).status_code == 409
    for asked in ({}, {"faces": [0], "unseen": 0}, {"faces": [], "unseen": -1}, [], "x"):
        assert client.post(f"{job}/start", json=asked).status_code == 400
    assert client.post(f"{job}/start", content=b"{").status_code == 400
    client.delete(job)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Host": "evil.example"}),
        ("GET", {"Host": "localhost.evil.example:80"}),
        ("GET", {"Host": "[::"}),
        ("POST", {"Origin": "http://evil.example"}),
        ("POST", {"Origin": "null"}),
        ("POST", {"Origin": "http://127.0.0.1:1"}),
    ],
)
def test_other_sites_are_refused(server: Server, method, headers):
    reply = server.client.request(method, "/jobs" if method == "POST" else "/", headers=headers)
    assert reply.status_code == 403
    assert not list(server.temporary.glob("davss-serve-*/*"))


def test_its_own_page_is_served(server: Server):
    port = httpx.URL(server.url).port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        own = {"Host": host, "Origin": f"http://{host}"}
        assert "Drop a recording" in server.client.get("/", headers=own).text
        reply = server.client.delete("/jobs/nothing", headers=own)
        assert reply.status_code == 404 and "not here any more" in reply.text


def test_uploads_have_a_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    folder = asyncio.run(_too_large(module.build_app("127.0.0.1")))
    assert not folder.exists()


async def _too_large(app) -> Path:
    async def parts():
        for _ in range(2):
            yield bytes(60)

    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=transport, base_url="http://[::1]") as client:
            for content in (bytes(101), parts()):  # its size is said beforehand, or not
                reply = await client.post("/jobs?name=x.wav", content=content)
                assert reply.status_code == 413 and "use `davss separate`" in reply.text
        jobs = app.state.jobs
        assert jobs.all == {} and jobs.folder.exists() and not list(jobs.folder.iterdir())
    return jobs.folder


def test_nothing_is_left_when_it_ends(tmp_path: Path, clip: bytes):
    server = start(tmp_path)
    job = give(server.client, clip, "x.wav")
    until(server.client, job, "looking", "ready")
    server.end()
    assert server.working() == [] and not list(server.temporary.iterdir())


def test_what_it_started_ends_with_it_even_if_it_is_killed(tmp_path: Path, clip: bytes):
    server = start(tmp_path)
    until(server.client, give(server.client, clip, "x.wav"), "looking")
    assert server.working()
    server.process.kill()
    server.process.wait()
    for _ in range(100):
        if not server.working():
            break
        time.sleep(0.1)
    assert server.working() == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--host", "192.0.2.1"],
            "--host 192.0.2.1 --port 8000: cannot be listened on (cannot assign",
        ),
        (
            ["--port", "65536"],
            "--port 65536: cannot be listened on (bind(): port must be 0-65535.)",
        ),
        (["--", "--preset", "slow"], "--preset: invalid choice: 'slow'"),
    ],
)
def test_wrong_flags_are_one_line(flags, message):
    command = [sys.executable, "-m", "davss", "serve", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_port_in_use_and_a_missing_extra_are_one_line(tmp_path: Path):
    command = [sys.executable, "-m", "davss", "serve", "--port"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*command, port], capture_output=True, text=True)
    text = "cannot be listened on (address already in use); give other ones, or --port 0"
    assert done.stderr == f"error: --host 127.0.0.1 --port {port}: {text}\n"
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(names={"uvicorn"}))
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": f"{tmp_path}:{root}"}
    done = subprocess.run([*command, "0"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    mend = "install davss with its extra: `pip install '.[serve]'` in the clone"
    assert done.stderr == f"error: this needs the Python package uvicorn; {mend}\n"


def test_what_the_page_chooses_is_no_flag():
    command = [sys.executable, "-m", "davss", "serve", "--port", "0", "--", "--preset", "direct"]
    for flags in (["--out", "x"], ["--speakers", "2"], ["--off-screen", "1"]):
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60)
        text = f"error: serve: {flags[0]} is chosen for each recording; leave it out\n"
        assert (done.returncode, done.stderr) == (2, text)


def test_progress_is_that_of_the_bar():
    job, said = Job(Path(), Path()), io.StringIO()
    bar = tqdm(total=200, desc="50/60 [x<y, .wav", file=said, mininterval=0, smoothing=0)
    bar.start_t -= 60
    bar.update(50)
    for line in said.getvalue().split("\r"):
        job.hear(line)
    assert job.done == 0.25 and 170 < job.left < 190
    job.hear("warning: 3/4 of it is silent")
    assert job.done == 0.25


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Besprechung am 3. März (2).MOV", "Besprechung am 3. März (2).MOV"),
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\a:b.mkv", "a_b.mkv"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("a\x00\n\ud800.wav", "a___.wav"),
        ("..", "recording"),
        ("", "recording"),
        ("会" * 300 + ".mp4", "会" * 56 + ".mp4"),
    ],
)
def test_names_are_harmless(given, name):
    assert clean(given) == name
