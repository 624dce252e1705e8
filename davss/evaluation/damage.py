"""Damage done to a mixture, or to the faces in view, before it is separated.

A row of a plan names it in its column `damage`, KIND:VALUE; without one, nothing is done.

| of the sound | | of the picture | |
|---|---|---|---|
| `level:DB` | louder by so much | `shift:FRAMES` | lips so late; early if negative |
| `clip:SHARE` | so many samples clipped | `dropped:SHARE` | frames lost: the last one stays |
| `opus:KBPS` | through a codec | `frozen:SHARE` | the picture stands, in one stretch |
| `band:telephone` | 300 to 3400 Hz | `covered:SHARE` | a grey patch on the mouth, in one stretch |
| `reverb:SECONDS` | in a room of that RT60 | `pixels:N` | a crop of N × N pixels |
| `thin:HZ` | little of voices below | `blur:PIXELS` | a Gaussian's σ, of the crop's 96 pixels |
| | | `video:CRF` | H.264; 51 is the worst there is |

References stay what they are: nobody asks a separator to keep clipping or a codec's noise. Those of
`reverb` are the voices with the first 50 ms of the room: reflections that early are heard as part
of the voice, and none of the priors is taught to remove them, while what comes later blurs speech,
and counts as error. Those of `thin` are the thin voices of poor microphones. The noise of both,
recorded elsewhere, is left as it is.

Shapes: K speakers · T samples · V video frames.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction

import av
import cv2
import numpy as np
import soundfile
import torch
from scipy import signal

from davss.errors import DavssError
from davss.media import FPS
from davss.media.resampling import resample
from davss.shards import augment

EARLY = 0.05  # s of a room's response
TELEPHONE = (300.0, 3400.0)  # Hz, ITU-T G.712
OPUS_RATE = 48_000
PATCH = (slice(20, 76), slice(8, 88))  # of a crop of 96 × 96: all of the mouth


def parse(text: str) -> tuple[str, float]:
    """Kind and value; DavssError for what is neither "" nor known."""
    kind, _, value = text.partition(":")
    if text in ("", "band:telephone"):
        return kind, 0.0
    try:
        if kind not in {"reverb", "thin", "shift", *SOUND, *PICTURE} - {"band"}:
            raise ValueError
        number = float(value)
        low, high = LIMITS.get(kind, (-np.inf, np.inf))
        if not low <= number <= high:
            raise ValueError
    except ValueError:
        raise DavssError(
            f"damage '{text}': not a kind and value that davss.evaluation.damage lists; correct it"
        ) from None
    return kind, number


def of_picture(text: str) -> bool:
    """Whether it is the picture that is damaged."""
    kind = parse(text)[0]
    return kind == "shift" or kind in PICTURE


def damaged_sound(
    text: str, speech: np.ndarray, noise: np.ndarray, rate: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The mixture (T,) of speech (K, T) and noise (T,) at `rate` Hz, and what its voices are
    compared with (K, T). `rng` draws the room.
    """
    kind, value = parse(text)
    if kind == "reverb":
        speech, late = reverberate(speech, rate, value, rng)
        return (speech + late).sum(axis=0) + noise, speech
    if kind == "thin":
        speech = np.stack([augment.thin(voice, value / rate) for voice in speech])
    mixture = speech.sum(axis=0) + noise
    if kind in SOUND:
        mixture = SOUND[kind](mixture, rate, value).astype(np.float32)
    return mixture, speech


def level(mixture: np.ndarray, rate: int, decibel: float) -> np.ndarray:
    """Louder by so many dB; nothing is clipped."""
    return mixture * 10 ** (decibel / 20)


def clip(mixture: np.ndarray, rate: int, share: float) -> np.ndarray:
    """The loudest `share` of the samples, cut to the level of the softest among them."""
    most = np.quantile(np.abs(mixture), 1 - share)
    return mixture.clip(-most, most)


def telephone(mixture: np.ndarray, rate: int, value: float) -> np.ndarray:
    """The band of a telephone, without delay."""
    sections = signal.butter(6, TELEPHONE, "bandpass", fs=rate, output="sos")
    return signal.sosfiltfilt(sections, mixture)


def opus(mixture: np.ndarray, rate: int, kbps: float) -> np.ndarray:
    """Encoded and decoded by Opus, without delay."""
    return from_opus(as_opus(mixture, rate, kbps), rate)[: len(mixture)]


def as_opus(mixture: np.ndarray, rate: int, kbps: float) -> bytes:
    """An Ogg file of a signal (T,)."""
    wide = resample(torch.from_numpy(np.asarray(mixture, np.float32)), rate, OPUS_RATE).numpy()
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=OPUS_RATE, layout="mono")
        stream.bit_rate = round(1000 * kbps)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wide[None]), "flt", "mono")
        frame.sample_rate, frame.time_base = OPUS_RATE, Fraction(1, OPUS_RATE)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def from_opus(data: bytes, rate: int) -> np.ndarray:
    """The signal (T,) of an Ogg file at `rate` Hz."""
    # By libopus: FFmpeg's own decoder is up to 3 samples of 48 kHz off where speech is coded.
    wide, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    return resample(torch.from_numpy(wide), OPUS_RATE, rate).numpy()


def reverberate(
    speech: np.ndarray, rate: int, rt60: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What comes of voices (K, T) in a room within 50 ms, each as loud as it was and without the
    delay of its way, and what comes later: both (K, T).
    """
    early, late = np.zeros_like(speech), np.zeros_like(speech)
    count, length = round(EARLY * rate), speech.shape[-1]
    for k, (response, first) in enumerate(room_responses(len(speech), rate, rt60, rng)):
        begin = max(first - rate // 1000, 0)  # a path is spread over a millisecond
        parts = [response[begin : first + count], response[first + count :]]
        found = signal.fftconvolve(speech[k], parts[0])[first - begin :][:length]
        gain = np.std(speech[k]) / max(np.std(found), 1e-12)
        early[k] = gain * found
        rest = signal.fftconvolve(speech[k], parts[1])[: max(length - count, 0)]
        late[k, count : count + len(rest)] = gain * rest
    return early, late


def room_responses(
    count: int, rate: int, rt60: float, rng: np.random.Generator
) -> list[tuple[np.ndarray, int]]:
    """By image sources, the impulse responses of `count` people 0.7 to 1.4 m from the microphone of
    a room, each with the sample at which the direct sound arrives.
    """
    import pyroomacoustics as rooms  # takes a second to load, and few plans have rooms

    size = rng.uniform([4.5, 3.5, 2.4], [7.0, 5.5, 3.2])
    absorption, order = rooms.inverse_sabine(rt60, size)
    room = rooms.ShoeBox(size, fs=rate, materials=rooms.Material(absorption), max_order=order)
    ear = size * [*rng.uniform(0.45, 0.55, 2), 0.5]
    room.add_microphone(ear)
    distances = rng.uniform(0.7, 1.4, count)
    for distance, angle in zip(distances, rng.uniform(0, 2 * np.pi, count), strict=True):
        room.add_source(ear + distance * np.array([np.cos(angle), np.sin(angle), 0]))
    room.compute_rir()
    lead = rooms.constants.get("frac_delay_length") // 2  # of its filters, before any sound
    arrivals = np.rint(distances / room.c * rate).astype(int) + lead
    return list(zip(room.rir[0], arrivals.tolist(), strict=True))


def damaged_picture(
    text: str, mouths: np.ndarray, first: int, num_frames: int, rng: np.random.Generator
) -> np.ndarray:
    """Mouth crops (V, 96, 96) uint8 of a clip, damaged where `num_frames` from `first` are seen."""
    kind, value = parse(text)
    if kind == "shift":
        return mouths[(np.arange(len(mouths)) - round(value)).clip(0, len(mouths) - 1)]
    shown, seen = mouths.copy(), slice(first, first + num_frames)
    shown[seen] = PICTURE[kind](mouths[seen], value, rng)
    return shown


def dropped(mouths: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the frames after the first is lost; the last one that came is shown."""
    shown = np.arange(len(mouths))
    lost = 1 + rng.permutation(len(mouths) - 1)[: round(share * (len(mouths) - 1))]
    shown[lost] = 0
    return mouths[np.maximum.accumulate(shown)]


def frozen(mouths: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The first frame of a stretch is shown all along it."""
    shown, stretch = mouths.copy(), _stretch(len(mouths), share, rng)
    shown[stretch] = mouths[stretch.start]
    return shown


def covered(mouths: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A patch of the crops' mean over the mouth."""
    shown = mouths.copy()
    shown[(_stretch(len(mouths), share, rng), *PATCH)] = round(mouths.mean())
    return shown


def pixels(mouths: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Made as small as `side` × `side`, and large again."""
    small = [cv2.resize(one, (round(side),) * 2, interpolation=cv2.INTER_AREA) for one in mouths]
    size = (mouths.shape[2], mouths.shape[1])
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) for one in small])


def blur(mouths: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Blurred by a Gaussian of `sigma` pixels."""
    return np.stack([cv2.GaussianBlur(one, (0, 0), sigma) for one in mouths])


def video(mouths: np.ndarray, crf: float, rng: np.random.Generator) -> np.ndarray:
    """Through H.264, at a constant rate factor."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": str(round(crf))})
        stream.height, stream.width = mouths.shape[1:]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for one in mouths:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, "gray")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as container:
        return np.stack([one.to_ndarray(format="gray") for one in container.decode(video=0)])


def _stretch(count: int, share: float, rng: np.random.Generator) -> slice:
    """A share of the time, anywhere."""
    length = round(share * count)
    start = int(rng.integers(count - length + 1))
    return slice(start, start + length)


Sound = Callable[[np.ndarray, int, float], np.ndarray]
Picture = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
SOUND: dict[str, Sound] = {"level": level, "clip": clip, "band": telephone, "opus": opus}
PICTURE: dict[str, Picture] = {"dropped": dropped, "frozen": frozen, "covered": covered}
PICTURE |= {"pixels": pixels, "blur": blur, "video": video}
LIMITS: dict[str, tuple[float, float]] = {kind: (0, 1) for kind in ("dropped", "frozen", "covered")}
LIMITS |= {"clip": (0, 0.99), "opus": (0.5, 512), "reverb": (0.1, 2), "pixels": (1, 96)}
LIMITS |= {"thin": (20, 20_000), "video": (0, 51), "blur": (0.1, 48), "level": (-120, 120)}
