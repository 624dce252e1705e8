"""The page of `davss serve` in a browser, from dropping a video to listening to its voices."""

from __future__ import annotations

import asyncio
from pathlib import Path

import soundfile

from tests.browser import open_page
from tests.media.making import noise, write
from tests.media.people import beside, person
from tests.serving.conftest import Server

INSIDE = "document.querySelector('iframe').contentDocument"
STATE = f"""JSON.stringify({{
  players: {INSIDE}.querySelectorAll('audio').length,
  faces: {INSIDE}.querySelectorAll('img.face').length,
  links: [...document.querySelectorAll('#files a')].map((one) => one.download),
}})"""


def test_a_dropped_video_becomes_voices(server: Server, tmp_path: Path):
    video = tmp_path / "two <people>.mp4"
    write(video, beside(person(50, 3), person(50, 4, pace=2.7)), noise(2.0))
    asyncio.run(_use(server.url, video, tmp_path))


async def _use(url: str, video: Path, folder: Path) -> None:
    async with open_page(url, folder / "profile") as tab:
        await tab.resize(390, 844)
        assert await tab.ask("document.querySelector('#drop').offsetHeight > 100")
        await _fits(tab, folder / "start")
        await tab.drop(video, 195, 250)
        await tab.until("!document.querySelector('#work').hidden")
        await _fits(tab, folder / "work")
        await tab.until("!document.querySelector('#choice').hidden")
        assert await tab.ask("document.querySelector('h1').textContent") == "two _people_.mp4"
        assert await tab.ask("document.querySelectorAll('#faces :checked').length") == 2
        await _fits(tab, folder / "choice")
        await tab.ask("document.querySelectorAll('#faces input')[1].click()")
        await tab.ask("document.querySelector('#choice button').click()")
        await tab.until("document.querySelector('#said').textContent === 'Getting ready'")
        await tab.ask("document.querySelector('#stop').click()")
        await tab.until("!document.querySelector('#choice').hidden")
        await tab.ask("document.querySelectorAll('#faces input')[1].click()")
        await tab.ask("document.querySelector('#choice button').click()")
        await tab.until(f"{INSIDE}?.documentElement.dataset.ready")
        assert await tab.ask(STATE) == (
            '{"players":3,"faces":1,"links":["two _people_.zip","speaker_1.wav","noise.wav"]}'
        )
        await tab.until(
            f"[...{INSIDE}.querySelectorAll('audio')].every((one) => one.duration > 1.9)"
        )
        await tab.ask(f"{INSIDE}.querySelector('section:nth-of-type(2) button').click()")
        await tab.until(f"{INSIDE}.querySelectorAll('audio')[1].currentTime > 0.1")
        await _fits(tab, folder / "done")
        await tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        await tab.ask("document.querySelectorAll('#files a')[1].click()")
        for _ in range(100):
            if (folder / "speaker_1.wav").is_file():
                break
            await asyncio.sleep(0.1)
        assert soundfile.info(folder / "speaker_1.wav").duration == 2.0
        await tab.call("Page.reload")  # the recording is in the address
        await tab.until(
            f"document.querySelector('iframe')?.src && {INSIDE}?.documentElement.dataset.ready"
        )
        await tab.ask("document.querySelector('#other').click()")
        await tab.until("!document.querySelector('#drop').hidden && location.hash === ''")
        assert tab.errors == []


async def _fits(tab, name: Path) -> None:
    """On a phone and a desk nothing is wider than the page, and the frame holds all of its own."""
    for width, height in ((390, 844), (1280, 900)):
        await tab.resize(width, height)
        await tab.until("document.documentElement.scrollWidth <= innerWidth", 5)
        if await tab.ask("!document.querySelector('iframe').hidden"):
            inside = f"{INSIDE}.documentElement"
            await tab.until(f"{inside}.scrollWidth <= {inside}.clientWidth", 5)
            await tab.until(f"Math.abs({INSIDE}.body.offsetHeight - {inside}.clientHeight) < 2", 5)
        await tab.picture(name.with_name(f"{name.name}-{width}.png"))
    await tab.resize(390, 844)
