"""Audio files in and out: float32, mono, checked; wav, flac and ogg by soundfile, mp4 by decord."""

from __future__ import annotations

import io
from pathlib import Path

import decord
import numpy as np
import soundfile
import torch
import torchaudio.functional

from davss.errors import DavssError
from davss.media.decoding import decoding, require_file
from davss.storage import publish

CONTAINERS = {".mp4", ".m4a", ".mov", ".mkv", ".aac"}
AAC_RATES = np.array(
    [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000]
)
SILENCE_RMS = 1e-5
STREAMED = 0x7FFFFFFF  # lengths from here on say that the writer did not know


def read_audio(path: str | Path, sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read one recording as mono float32 (T,) with its rate in Hz; `sample_rate` resamples it.

    Of a wav, flac or ogg file with several channels the first is taken (WHAM! is defined so); the
    audio of a container (mp4, m4a) is mixed down to mono and starts with its video, but its end is
    padded to whole AAC frames: trim it to the video's length. Raises DavssError for a missing,
    empty, unreadable, truncated or non-finite recording.
    """
    path = require_file(path)
    read = _read_container if path.suffix.lower() in CONTAINERS else _read_soundfile
    audio, rate = read(path)
    if audio.size == 0:
        raise DavssError(f"{path}: holds no audio samples; remove the file or record it again")
    if not np.isfinite(audio).all():
        raise DavssError(f"{path}: audio has NaN or infinite samples; write the file again")
    if sample_rate is not None and sample_rate != rate:
        audio, rate = resample(audio, rate, sample_rate), sample_rate
    return audio, rate


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Band-limited resampling of float32 (..., T) to (..., ceil(T·to/from)); rates in Hz."""
    if from_rate == to_rate:
        return audio
    signal = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    return torchaudio.functional.resample(signal, from_rate, to_rate).numpy()


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write (T,) or (C, T) as a float32 wav file, all or nothing; DavssError on NaN, inf, empty."""
    path, audio = Path(path), np.asarray(audio, dtype=np.float32)
    if audio.size == 0 or not np.isfinite(audio).all():
        raise DavssError(f"{path}: refusing to write empty or non-finite audio")
    buffer = io.BytesIO()  # libsndfile does not tell a full disk from other failures
    soundfile.write(buffer, audio.T, sample_rate, subtype="FLOAT", format="WAV")
    with publish(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def require_sound(audio: np.ndarray, name: str | Path, least: float = SILENCE_RMS) -> None:
    """Raise DavssError when the RMS of `audio` (full scale 1) says that nothing was recorded."""
    if float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) < least:
        raise DavssError(f"{name}: audio is silent; remove the file or record it again")


def _read_soundfile(path: Path) -> tuple[np.ndarray, int]:
    _require_whole_wav(path)
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip().rstrip(".")
        raise DavssError(
            f"{path}: not a readable audio file ({reason}); convert it to wav"
        ) from None
    return np.ascontiguousarray(audio[:, 0]), int(rate)


def _require_whole_wav(path: Path) -> None:
    # libsndfile reads what is there of a file that was cut short, and does not tell.
    with open(path, "rb") as stream:
        start = stream.read(12)
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            return
        while len(header := stream.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            left = path.stat().st_size - stream.tell()
            if header[:4] == b"data":
                if left < size < STREAMED:
                    raise DavssError(
                        f"{path}: its header claims {size} bytes of sound, the file has {left} "
                        "(truncated?); copy it again"
                    )
                return
            stream.seek(size + size % 2, 1)


def _read_container(path: Path) -> tuple[np.ndarray, int]:
    # mono=True: decord 0.6.0 returns garbage in the second channel of stereo AAC with mono=False.
    with decoding(path, "audio"):
        reader = decord.AudioReader(str(path), sample_rate=-1, mono=True)
        audio = reader[:].asnumpy()[0].astype(np.float32)
        rate = _native_rate(path, audio.size)
        duration = float(reader.duration())
    # A container that breaks off while decoding reports no duration at all.
    if duration <= 0 or audio.size < (duration - 0.1) * rate:
        raise DavssError(
            f"{path}: audio breaks off after {audio.size / rate:.2f} s (truncated or corrupt?);"
            " copy or encode it again"
        )
    return audio, rate


def _native_rate(path: Path, num_samples: int) -> int:
    # decord does not tell the stream's own rate, but its resampler keeps lengths in exact
    # proportion.
    reference = decord.AudioReader(str(path), sample_rate=8000, mono=True).shape[1]
    rate = 8000 * num_samples / max(reference, 1)
    return int(AAC_RATES[np.argmin(np.abs(AAC_RATES - rate))])
