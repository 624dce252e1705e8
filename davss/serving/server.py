"""The server of the page: uploads, the state of each recording, its results.

It answers this machine's own page alone: a request under another host's name, as after DNS
rebinding, or from another site's page, is refused. Recordings have names that nobody can guess.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from davss.errors import DavssError
from davss.serving.jobs import Job, Jobs
from davss.storage import publish

MAX_BYTES = 8 << 30  # of a recording
SPARE_BYTES = 1 << 30  # left free on the disk by an upload
MAX_UNSEEN = 8  # voices without a face
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Cache-Control": "no-cache",
}
PAGE = Path(__file__).parent / "page.html"


def serve(host: str, port: int, flags: Sequence[str] = ()) -> None:
    """Serve the page until interrupted; DavssError where that cannot be listened on."""
    listener = _listen(host, port)
    address, port = listener.getsockname()[:2]
    print(f"http://{f'[{address}]' if ':' in address else address}:{port}/", flush=True)
    if not ipaddress.ip_address(address).is_loopback:
        text = "whoever reaches this machine can use the page, without a password"
        print(f"note: --host {host}: {text}", file=sys.stderr)
    config = uvicorn.Config(
        build_app(host, flags), log_level="warning", lifespan="on", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        text = f"cannot be listened on ({reason.lower()}); give other ones, or --port 0"
        raise DavssError(f"--host {host} --port {port}: {text}") from None
    return listener


def build_app(host: str, flags: Sequence[str] = ()) -> Starlette:
    """The application: files lie in a temporary folder for as long as it runs."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="davss-serve-") as folder:
            app.state.jobs = Jobs(Path(folder), flags)
            yield
            await app.state.jobs.close()

    routes = [
        Route("/", _page),
        Route("/jobs", _upload, methods=["POST"]),
        Route("/jobs/{job}", _state),
        Route("/jobs/{job}", _remove, methods=["DELETE"]),
        Route("/jobs/{job}/start", _start, methods=["POST"]),
        Route("/jobs/{job}/stop", _stop, methods=["POST"]),
        Route("/jobs/{job}/{name}", _result),
    ]
    return Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(OwnPage, host=host)])


class OwnPage:
    """Lets requests through that name this machine and do not come from another site's page."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if not self._is_own(host) or origin not in (None, f"http://{host}", f"https://{host}"):
                refusal = PlainTextResponse("this is not a page of davss serve", 403)
                return await refusal(scope, receive, send)
        await self._app(scope, receive, send_with_headers)

    def _is_own(self, host: str) -> bool:
        """Whether it is no name that a stranger may have led here: a number, or known."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in ("localhost", self._host) or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _job(request: Request) -> Job:
    try:
        return request.app.state.jobs.all[request.path_params["job"]]
    except KeyError:
        raise HTTPException(404, "this recording is not here any more; give it again") from None


async def _page(request: Request) -> Response:
    return HTMLResponse(PAGE.read_text(encoding="utf-8").replace("MAX_BYTES", str(MAX_BYTES)))


async def _upload(request: Request) -> Response:
    """The body is the file, `?name=` its name."""
    jobs: Jobs = request.app.state.jobs
    room = shutil.disk_usage(jobs.folder).free - SPARE_BYTES
    limit, size = min(MAX_BYTES, room), 0
    text = "the file is too large, or the disk too full; use `davss separate` for it"
    if int(request.headers.get("content-length", 0)) > limit:
        raise HTTPException(413, text)
    word, job = jobs.add(request.query_params.get("name", ""))
    try:
        with open(job.recording, "wb") as target:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise HTTPException(413, text)
                target.write(chunk)
    except ClientDisconnect:
        await jobs.remove(word)
        return Response(status_code=400)
    except BaseException:
        await jobs.remove(word)
        raise
    jobs.look(job)
    return JSONResponse({"id": word}, 201)


async def _state(request: Request) -> Response:
    job = _job(request)
    state: dict[str, Any] = {
        "name": job.recording.name,
        "state": job.state,
        "ahead": request.app.state.jobs.ahead(job),
        "error": job.error,
        "done": job.done,
        "left": job.left,
    }
    if not job.busy:
        shown = ("picture", "speaker", "why", "times")
        state["faces"] = [{key: face[key] for key in shown} for face in job.faces]
        state |= {"seconds": job.seconds, "notes": job.notes, "files": job.files}
        state["archive"] = job.archive.name
    return JSONResponse(state)


async def _start(request: Request) -> Response:
    """The body: {"faces": numbers of those who speak, "unseen": number of other voices}."""
    job = _job(request)
    try:
        asked = await request.json()
        faces, unseen = [int(number) for number in asked["faces"]], int(asked["unseen"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise HTTPException(400, "give faces and unseen") from None
    if not (set(faces) <= set(range(len(job.faces))) and 0 <= unseen <= MAX_UNSEEN):
        raise HTTPException(400, f"give faces that there are, and 0 to {MAX_UNSEEN} unseen")
    if job.busy or job.state == "failed":
        raise HTTPException(409, "this recording is busy or cannot be used")
    request.app.state.jobs.separate(job, sorted(set(faces)), unseen)
    return Response(status_code=204)


async def _stop(request: Request) -> Response:
    await request.app.state.jobs.stop(_job(request))
    return Response(status_code=204)


async def _remove(request: Request) -> Response:
    _job(request)
    await request.app.state.jobs.remove(request.path_params["job"])
    return Response(status_code=204)


def _result(request: Request) -> Response:
    """A file of the results, or all of them in one; none but those, whatever the name."""
    job, name = _job(request), request.path_params["name"]
    if name in job.files:
        return FileResponse(job.out / name)
    if name != job.archive.name or not job.files:
        raise HTTPException(404, f"{name}: no such result")
    if not job.archive.exists():
        with publish(job.archive) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for one in [*job.files, "separation.json"]:
                archive.write(job.out / one, f"{job.recording.stem}/{one}")
    return FileResponse(job.archive)
