"""One page to look at and listen to a separation: all in one file, which requests nothing.

T samples · F bins · N frames · H × W pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np
import soundfile
import torch

from davss.media.audio import resample

LONGEST = 300  # s of sound in the page
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
COLUMNS, BINS = 1000, 160  # pixels of a spectrogram, at most
RANGE_DB = 60.0
WAVE = 600  # points of a waveform
THUMBNAIL = 192  # pixels of a side


def write_preview(
    target: Path,
    name: str,
    mixture: tuple[np.ndarray, int],
    sources: Mapping[str, Path],
    faces: Mapping[str, np.ndarray],
    seconds: float,
    notes: Sequence[str],
    confidence: Mapping[str, Sequence[float | None]] | None = None,
) -> None:
    """The page of a recording called `name`: its sound (T,) and rate, the files of its sources, the
    picture RGB (H, W, 3) of some of them, its length, what else is to be said, and the confidence
    in some of the sources, second by second.
    """
    sounds = {"The recording": mixture}
    for source, path in sources.items():
        with soundfile.SoundFile(path) as file:
            sounds[source] = (
                file.read(LONGEST * file.samplerate, dtype="float32"),
                file.samplerate,
            )
    gain = 0.9 / max(max(float(np.abs(audio).max()) for audio, _ in sounds.values()), 1e-9)
    top = max(float(levels_db(*sound).max()) for sound in sounds.values())
    cards = [
        _card(
            label,
            gain * audio,
            rate,
            top + 20 * np.log10(gain),
            faces.get(label),
            (confidence or {}).get(label, []),
        )
        for label, (audio, rate) in sounds.items()
    ]
    about = f"{seconds:.1f} s."
    if seconds > LONGEST:
        about = f"The first {LONGEST / 60:.0f} minutes of {seconds / 60:.1f}."
    about += " A click on a picture starts there; A/B changes to the recording and back, in place."
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    template = Template((Path(__file__).parent / "preview.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(name),
        about=about,
        notes=f"<ul>{said}</ul>" if said else "",
        cards="\n".join(cards),
    )
    target.write_text(page, encoding="utf-8")


def _card(
    label: str,
    audio: np.ndarray,
    rate: int,
    top: float,
    face: np.ndarray | None,
    confidence: Sequence[float | None],
) -> str:
    name = escape(label)
    picture = ""
    if face is not None:
        picture = f'<img class="face" alt="the face of {name}" src="{thumbnail(face)}">'
    kind = ' class="bare"' if face is None else ""
    return f"""<section{kind} data-name="{name}" data-seconds="{len(audio) / rate:.3f}">
{picture}
<div>
<h2>{name}</h2>
<div class="plot">
<svg viewBox="0 0 {WAVE} 100" preserveAspectRatio="none" aria-hidden="true">{_wave(audio)}</svg>
<img alt="spectrogram of {name}, up to {rate / 2000:g} kHz" src="{_png(audio, rate, top)}">
{_bars(confidence[:LONGEST], len(audio) / rate)}</div>
<audio controls preload="metadata" aria-label="{name}" src="{_mp3(audio, rate)}"></audio>
</div>
</section>"""


def _wave(audio: np.ndarray) -> str:
    """Highest and lowest sample of each stretch, as a path of SVG."""
    count = min(WAVE, len(audio))
    edges = np.arange(count) * len(audio) // count
    high, low = np.maximum.reduceat(audio, edges), np.minimum.reduceat(audio, edges)
    x = np.arange(count) * WAVE / count
    there = " ".join(f"{a:.1f},{50 - 50 * b:.1f}" for a, b in zip(x, high, strict=True))
    back = " ".join(f"{a:.1f},{50.4 - 50 * b:.1f}" for a, b in zip(x[::-1], low[::-1], strict=True))
    return f'<path d="M{there} L{back}Z"/>'


def _bars(confidence: Sequence[float | None], seconds: float) -> str:
    """The confidence in a source, a bar for each second, and in words."""
    known = {second: value for second, value in enumerate(confidence) if value is not None}
    if not known:
        return ""
    path = "".join(f"M{second},1V{1 - value:.3f}h1V1Z" for second, value in known.items())
    worst = min(known, key=lambda second: known[second])
    said = f"confidence {np.mean(list(known.values())):.2f}, least {known[worst]:.2f} at {worst} s"
    box = f'viewBox="0 0 {seconds:.3f} 1" preserveAspectRatio="none" aria-hidden="true"'
    return f'<svg class="sure" {box}><path d="{path}"/></svg>\n<p>{said}</p>\n'


def levels_db(audio: np.ndarray, rate: int) -> np.ndarray:
    """Power in dB (F, N) of at most BINS bins and COLUMNS columns; of long sound, of excerpts."""
    size = 1 << max(int(0.032 * rate) - 1, 32).bit_length()
    hop = max(size // 4, -(-len(audio) // COLUMNS))
    padded = torch.from_numpy(np.pad(audio, size // 2).astype(np.float32))
    parts = padded.unfold(0, size, hop) * torch.hann_window(size)
    levels = 20 * torch.log10(torch.fft.rfft(parts).abs() + 1e-7)
    return levels.numpy().T


def _png(audio: np.ndarray, rate: int, top: float) -> str:
    shade = np.clip((levels_db(audio, rate) - top) / RANGE_DB + 1, 0, 1)[::-1]
    size = min(shade.shape[1], COLUMNS), min(shade.shape[0], BINS)
    small = cv2.resize(np.ascontiguousarray(shade), size, interpolation=cv2.INTER_AREA)
    colours = cv2.applyColorMap(np.round(255 * small).astype(np.uint8), cv2.COLORMAP_MAGMA)
    return _data("image/png", cv2.imencode(".png", colours)[1].tobytes())


def thumbnail(picture: np.ndarray) -> str:
    """The middle of a picture RGB uint8 (H, W, 3), small, as a URL that holds it."""
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    square = picture[top : top + side, left : left + side]
    small = cv2.resize(square, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
    return _data("image/jpeg", encoded.tobytes())


def _mp3(audio: np.ndarray, rate: int) -> str:
    if rate not in MP3_RATES:
        new = next((one for one in MP3_RATES if one >= rate), MP3_RATES[-1])
        audio, rate = resample(audio, rate, new), new
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1, 1), rate, format="MP3")
    return _data("audio/mpeg", buffer.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
