"""The page of a separation: everything inside, players that work in a browser."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from davss.cli.preview import LONGEST, levels_db, write_preview
from tests.browser import open_page

RATE = 16_000


@pytest.fixture
def page(tmp_path) -> Path:
    voice = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "speaker_1.wav", voice, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "noise.wav", 0 * voice, RATE, subtype="FLOAT")
    sources = {name: tmp_path / f"{name}.wav" for name in ("speaker_1", "noise")}
    face = np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8)
    path = tmp_path / "preview.html"
    given = "<b>$x.mp4", (voice, RATE), sources, {"speaker_1": face}, 3.0, ["a & b"]
    write_preview(path, *given)
    return path


def test_the_page_holds_all_and_asks_for_nothing(page):
    html = page.read_text()
    assert html.count("<audio") == 3 and html.count('class="face"') == 1
    assert "&lt;b&gt;$x.mp4" in html and "<li>a &amp; b</li>" in html and "<b>$" not in html
    assert set(re.findall(r'(?:src|href)="([a-z/0-9]+:[a-z0-9]+)', html)) == {
        "data:image", "data:audio"
    }  # fmt: skip
    assert "default-src 'none'" in html and "http" not in re.sub(
        r'content="[^"]*"|http-equiv', "", html
    )


def test_confidence_has_a_bar_a_second(page, tmp_path):
    assert "confidence" not in page.read_text()
    voice = np.zeros(3 * RATE, np.float32)
    voice[::100] = 0.1
    sure = {"speaker_1": [0.9, None, 0.4]}
    sources = {"speaker_1": tmp_path / "speaker_1.wav", "noise": tmp_path / "noise.wav"}
    write_preview(page, "x", (voice, RATE), sources, {}, 3.0, [], sure)
    html = page.read_text()
    assert 'd="M0,1V0.100h1V1ZM2,1V0.600h1V1Z"' in html and 'viewBox="0 0 3.000 1"' in html
    assert html.count("confidence 0.65, least 0.40 at 2 s") == html.count("confidence") == 1


def test_long_sound_is_cut_in_the_page_alone(tmp_path):
    quiet = np.zeros((LONGEST + 5) * 8000, np.float32)
    quiet[::100] = 0.1
    soundfile.write(tmp_path / "noise.wav", quiet, 8000)
    mixture = quiet[: LONGEST * 8000], 8000
    sources = {"noise": tmp_path / "noise.wav"}
    write_preview(tmp_path / "x.html", "x", mixture, sources, {}, LONGEST + 5.0, [])
    html = (tmp_path / "x.html").read_text()
    assert "The first 5 minutes of 5.1" in html and html.count('data-seconds="300.000"') == 2


@pytest.mark.parametrize("rate", [4000, 8000, 44_100, 192_000])
def test_a_tone_lies_where_it_belongs(rate):
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate).astype(np.float32)
    levels = levels_db(tone, rate)
    height = levels.mean(1).argmax() / (levels.shape[0] - 1)
    assert abs(height - 1000 / (rate / 2)) < 0.02 and 50 < levels.shape[1] <= 1002


def test_the_players_work_in_a_browser(page, tmp_path):
    asyncio.run(_listen(page.as_uri(), tmp_path / "profile"))


async def _listen(url: str, profile: Path) -> None:
    async with open_page(url, profile) as tab:
        recording, voice = (f"document.querySelectorAll('audio')[{number}]" for number in (0, 1))
        play, swap = (
            f"document.querySelectorAll('section')[1].querySelectorAll('button')[{number}]"
            for number in (0, 1)
        )
        await tab.ask(f"{play}.click()")
        await tab.until(f"{voice}.currentTime > 0.1 && !{voice}.paused")
        await tab.ask(f"{swap}.click()")
        await tab.until(f"{recording}.currentTime > 0.1 && !{recording}.paused && {voice}.paused")
        await tab.ask(f"{play}.click()")
        await tab.until(f"{recording}.paused && {play}.textContent === 'Play'")
        for width in (390, 1280):
            await tab.resize(width, 844)
            await tab.until("document.documentElement.scrollWidth <= innerWidth", 5)
        assert tab.errors == []
