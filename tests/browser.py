"""A headless Chromium with one page, driven through its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-port=0"
FLAGS += " --disable-background-networking --autoplay-policy=no-user-gesture-required"


class Tab:
    """The page; `errors` are what its console has said is wrong."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One method of the protocol."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            said = await self._socket.receive_json()
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]
            kind, params = said["method"], said["params"]
            if kind == "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            elif kind == "Log.entryAdded" and params["entry"]["level"] == "error":
                self.errors.append(str(params["entry"]))

    async def ask(self, expression: str) -> Any:
        """What an expression is in the page; None if it cannot be found."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = 240) -> Any:
        """The same, asked until it is something."""
        for _ in range(round(seconds / 0.2)):
            if value := await self.ask(expression):
                return value
            await asyncio.sleep(0.2)
        raise AssertionError(f"never true: {expression}; {self.errors}")

    async def resize(self, width: int, height: int) -> None:
        """Give the page another size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)

    async def drop(self, path: Path, x: int, y: int) -> None:
        """Drag a file over a point and let it go."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    async def picture(self, target: Path) -> None:
        """Write all of the page to a file, as png."""
        given = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        target.write_bytes(base64.b64decode(given["data"]))


@asynccontextmanager
async def open_page(url: str, profile: Path) -> AsyncIterator[Tab]:
    """The page at `url`, in a browser of its own; skips the test where there is none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on PATH")
    command = [browser, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            where = next(line for line in process.stderr if line.startswith("DevTools listening"))
            port = re.search(r":(\d+)/", where)[1]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as reply:
                    (found,) = [one for one in await reply.json() if one["type"] == "page"]
                address = found["webSocketDebuggerUrl"]
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    tab = Tab(socket)
                    for domain in ("Runtime", "Log", "Page"):
                        await tab.call(f"{domain}.enable")
                    await tab.call("Page.navigate", url=url)
                    await tab.until(
                        "document.readyState === 'complete' && location.href !== 'about:blank'"
                    )
                    yield tab
        finally:
            process.terminate()
