"""Scores of a separated source against its reference: SI-SDR, PESQ and ESTOI (docs/method.md §10).

There is no search over permutations: the lips fix who is who, or `best_order` does beforehand.
B batch, K speakers, M sources, T samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davss.errors import DavssError
from davss.evaluation import listeners as trained
from davss.media.resampling import resample

SI_SDR_METRICS = ("si_sdr", "si_sdr_mixture", "si_sdri")
PERCEPTUAL_METRICS = ("pesq", "pesq_mixture", "estoi", "estoi_mixture")
METRICS = SI_SDR_METRICS + PERCEPTUAL_METRICS
SOURCE_METRICS = (*METRICS, "si_sir", "si_sar", "si_sdr_other")  # those of one source of several
PESQ_MODES = {8000: "nb", 16000: "wb"}
NOISE = "noise"  # the source that is no speaker
LOWEST = 1e3  # dB, stands for a ratio that does not exist

Signal = Tensor | np.ndarray


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, means removed: (..., T)² → (...).

    A silent (constant) reference gives NaN, because nothing could be right; a silent estimate of a
    reference that sounds gives −inf; an exact multiple of the reference gives a very high value,
    or +inf where the rounding error is zero. Le Roux et al., "SDR – half-baked or well done?",
    ICASSP 2019.
    """
    estimate = estimate - estimate.mean(dim=-1, keepdim=True)
    reference = reference - reference.mean(dim=-1, keepdim=True)
    energy = reference.square().sum(dim=-1, keepdim=True)
    target = (estimate * reference).sum(dim=-1, keepdim=True) / energy * reference
    signal, distortion = target.square().sum(dim=-1), (estimate - target).square().sum(dim=-1)
    # 0 / 0 is left for a silent estimate; with a silent reference `target` is NaN already.
    silent = (signal == 0) & (distortion == 0)
    return torch.where(silent, -math.inf, 10 * torch.log10(signal / distortion))


def si_sir_sar(estimate: np.ndarray, references: np.ndarray, index: int) -> tuple[float, float]:
    """Scale-invariant signal-to-interference and signal-to-artifacts ratios in dB of an estimate
    (T,) of source `index` of references (M, T), means removed.

    What is wrong with the estimate is split into what the references explain and what they do not,
    so that the powers of both make up those of SI-SDR. Le Roux et al., "SDR – half-baked or well
    done?", ICASSP 2019, eqs. 5 and 6.
    """
    estimate = estimate - estimate.mean()
    references = references - references.mean(axis=-1, keepdims=True)
    own = references[index]
    with np.errstate(divide="ignore", invalid="ignore"):
        target = (estimate @ own) / (own @ own) * own
        if not np.isfinite(target).all():
            return math.nan, math.nan
        shares = np.linalg.lstsq(references.T, estimate - target, rcond=None)[0]
        interference = shares @ references
        artifacts = estimate - target - interference
        power = target @ target
        ratios = (power / (error @ error) for error in (interference, artifacts))
        sir, sar = (float(10 * np.log10(ratio)) for ratio in ratios)
    return sir, sar


def score(
    estimate: Signal,
    reference: Signal,
    mixture: Signal | None,
    sample_rate: int,
    *,
    perceptual: bool = True,
    reasons: dict[str, str] | None = None,
) -> dict[str, float]:
    """All `METRICS` of an estimate (T,) and of the mixture (T,) against the reference (T,).

    SI-SDR in dB (si_sdri is what separation adds), PESQ as MOS-LQO (narrow-band at 8 kHz, wide-band
    at 16 kHz, to which higher rates are resampled), ESTOI in 0…1; `sample_rate` in Hz. A metric
    that does not exist for these signals (no mixture, no utterance, too short, another rate) is
    NaN, and `reasons`, if given, gets its name and why; `perceptual=False` leaves PESQ and ESTOI
    out as NaN. Raises DavssError for signals of different lengths.
    """
    given = {"": estimate} | ({} if mixture is None else {"_mixture": mixture})
    signals = [_double(signal) for signal in (reference, *given.values())]
    if any(signal.shape != signals[0].shape for signal in signals):
        shapes = " × ".join(str(tuple(signal.shape)) for signal in signals)
        raise DavssError(
            f"score: reference, estimate and mixture must be (T,) of one length, not {shapes}"
        )
    reasons = {} if reasons is None else reasons
    result = dict.fromkeys(METRICS, math.nan)
    clean = signals[0]
    if np.ptp(clean) == 0:
        reasons["si_sdr"] = "reference is silent"
    for suffix, signal in zip(given, signals[1:], strict=True):
        if not np.isfinite(signal).all():
            reasons["si_sdr" + suffix] = "signal has NaN or infinite samples"
            continue
        tensors = torch.from_numpy(signal), torch.from_numpy(clean)
        result["si_sdr" + suffix] = si_sdr(*tensors).item()
        if perceptual:
            for name, metric in (("pesq", _pesq), ("estoi", _estoi)):
                result[name + suffix] = _attempt(
                    metric, name + suffix, clean, signal, sample_rate, reasons
                )
    result["si_sdri"] = result["si_sdr"] - result["si_sdr_mixture"]
    return result


def score_sources(
    estimates: np.ndarray,
    references: np.ndarray,
    mixture: np.ndarray | None,
    sample_rate: int,
    *,
    names: Sequence[str] | None = None,
    perceptual: bool = True,
    listeners: Collection[str] = (),
) -> list[dict[str, Any]]:
    """One row per source of a separated mixture (T,), if that is known: estimates and references
    (M, T); `sample_rate` in Hz.

    A row is `source`, one of `names`, by default speaker_1 … speaker_K, noise; `SOURCE_METRICS`,
    those of `listeners` (`davss.evaluation.listeners`), and `error` (None, or why a metric is NaN).
    `si_sdr_other` is that of the best estimate of another speaker against this one, NaN where there
    is no other; of the noise there are SI ratios alone, and of all sources with `perceptual` False
    and no listeners. A source without an estimate, all NaN, is scored as such, and interferes with
    the others all the same. Raises DavssError when the estimates do not fit the references.
    """
    if estimates.shape != references.shape:
        raise DavssError(
            f"estimates {estimates.shape} do not fit references {references.shape}; run the "
            "separate stage again"
        )
    names = source_names(len(references) - 1) if names is None else list(names)
    estimates, references = _double(estimates), _double(references)
    rows = []
    for index, name in enumerate(names):
        reasons: dict[str, str] = {}
        own = estimates[index], references[index]
        speaks, heard = name != NOISE, bool(np.isfinite(own[0]).all())
        wanted = perceptual and speaks
        metrics = score(*own, mixture, sample_rate, perceptual=wanted, reasons=reasons)
        sir, sar = math.nan, math.nan
        if heard and len(references) > 1:
            sir, sar = si_sir_sar(own[0], references, index)
        others = [k for k, other in enumerate(names) if k != index and speaks and other != NOISE]
        found = torch.from_numpy(estimates[others])
        of_others = si_sdr(found, torch.from_numpy(own[1])).tolist()
        metrics |= {"si_sir": sir, "si_sar": sar, "si_sdr_other": max(of_others, default=math.nan)}
        metrics |= dict.fromkeys(trained.metrics_of(listeners), math.nan)
        if speaks and heard:
            metrics |= trained.listen(*own, sample_rate, listeners, reasons)
        rows.append({"source": name, **metrics, "error": _sentence(reasons)})
    return rows


def best_order(estimates: np.ndarray, references: np.ndarray) -> list[int]:
    """Of every reference (M, T) the number of its estimate (M, T), so that the sum of all SI-SDR is
    the highest; what has none comes last.
    """
    from scipy.optimize import linear_sum_assignment

    found, clean = (torch.from_numpy(_double(one)) for one in (estimates, references))
    ratios = si_sdr(found[None], clean[:, None]).nan_to_num(-LOWEST, LOWEST, -LOWEST)
    return linear_sum_assignment(ratios.clamp(-LOWEST, LOWEST).numpy(), maximize=True)[1].tolist()


def source_names(num_speakers: int) -> list[str]:
    """speaker_1 … speaker_K, noise: the order of channels in an estimate."""
    return [f"speaker_{index + 1}" for index in range(num_speakers)] + [NOISE]


def _double(signal: Signal) -> np.ndarray:
    if isinstance(signal, Tensor):
        signal = signal.detach().cpu().numpy()
    return np.asarray(signal, dtype=np.float64)


def _sentence(reasons: Mapping[str, str]) -> str | None:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or None


def _attempt(
    metric: Callable[[np.ndarray, np.ndarray, int], float],
    name: str,
    clean: np.ndarray,
    signal: np.ndarray,
    sample_rate: int,
    reasons: dict[str, str],
) -> float:
    """The metric's value, or NaN and an entry in `reasons`."""
    if not (signal.any() and clean.any()):
        reasons[name] = "estimate is silent" if clean.any() else "reference is silent"
        return math.nan
    try:
        return metric(clean, signal, sample_rate)
    # Both packages raise errors of their own, ValueErrors and warnings for signals they cannot
    # rate.
    except Exception as error:
        text = error.args[0] if error.args else ""
        text = text.decode() if isinstance(text, bytes) else str(error).split(". ")[0]
        reasons[name] = text or type(error).__name__
        return math.nan


def _pesq(clean: np.ndarray, signal: np.ndarray, sample_rate: int) -> float:
    if sample_rate > 16000:
        clean, signal = (
            resample(torch.from_numpy(one), sample_rate, 16000).numpy() for one in (clean, signal)
        )
        sample_rate = 16000
    if sample_rate not in PESQ_MODES:
        raise ValueError(f"PESQ is defined at 8000 and 16000 Hz, not at {sample_rate} Hz")
    try:
        from pesq import pesq
    except ModuleNotFoundError:
        raise ValueError("package pesq is not installed (building it needs a C compiler)") from None
    # The C code works on 16-bit samples: unit peaks keep quiet signals from being rounded away.
    clean, signal = clean / np.abs(clean).max(initial=1e-12), signal / np.abs(signal).max()
    return float(pesq(sample_rate, clean, signal, PESQ_MODES[sample_rate]))


def _estoi(clean: np.ndarray, signal: np.ndarray, sample_rate: int) -> float:
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # too short: a warning and a made-up 1e-5
        try:
            value = stoi(clean, signal, sample_rate, extended=True)
        except IndexError:  # not a single frame
            raise ValueError("Not enough STFT frames") from None
    return round(float(value), 6)  # pystoi adds random numbers of the size of a rounding error
