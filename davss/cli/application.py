"""The work of `davss separate`: files in, files out.

Shapes: L speakers with lips · K speakers · T samples · V video frames · D visual feature size.
"""

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from davss import __version__, cores
from davss.cli.extras import plan_extras
from davss.cli.faces import Cast, find_cast
from davss.cli.flags import execution_settings, sampler_settings
from davss.cli.inputs import on_disk, plan_speakers, read_lips, read_recording
from davss.cli.output import check_folder, source_files, write_results
from davss.config import NoiseModel, to_dict
from davss.diffusion.prior import NoisePrior, SpeechPrior, load_prior
from davss.errors import DavssError, one_line, say
from davss.media.audio import resample
from davss.networks.visual import BravenLips
from davss.posterior.kept import Kept
from davss.posterior.recordings import blocks_at_rate
from davss.posterior.separator import Separator
from davss.posterior.spread import confidence
from davss.small import NOISE_16, SPEECH, SPEECH_16, is_packaged

ALIKE = (
    "several voices without lips, which the packaged priors do not tell apart; expect parts of "
    "each in all of them"
)
UNFINISHED = ".davss-unfinished"  # below the folder of results: windows of a run that was stopped


def separate_file(recording: Path, out: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Separate one file as the flags of `davss separate` say, and write the sources to the folder
    `out`; returns separation.json.

    Without `lips` and `speakers` the speakers are those whose faces speak in the recording's own
    picture, or those that `faces` names, a separation.json corrected by hand. With several draws
    `spread.npz` says how far they differ: standard deviations (F, N) for every source, see
    davss/posterior/spread.py. Everything is checked before the sampler starts, and no file is
    written unless it succeeds. Raises DavssError naming the file or flag that is wrong.
    """
    noise_prior = flags.noise_prior
    check_device(flags.device)
    set_threads()
    with on_disk(recording) as file:
        paths, total = plan_speakers(file, flags.lips, flags.speakers, flags.off_screen)
        own_picture = bool(paths) and not flags.lips
        if flags.faces is not None and not own_picture:
            raise DavssError(
                f"--faces {flags.faces}: is for a video as input without --lips and --speakers; "
                "leave one of them out"
            )
        chosen = flags.speech_prior or packaged_for(total, bool(paths), noise_prior)
        settings = sampler_settings(flags, chosen)
        speech, noise = load_pair(chosen, noise_prior)
        if paths:
            give_checkpoint(speech, flags.visual_encoder)
        sound = read_recording(file, flags.channel)
        if own_picture:
            cast = find_cast(file, speech, sound, flags.off_screen, flags.faces)
            seen, total = cast.lips, cast.num_speakers
            if flags.speech_prior is None and seen is None:  # that it was to know lips is of no use
                chosen = packaged_for(total, False, noise_prior)
                settings = sampler_settings(flags, chosen)
                speech, noise = load_pair(chosen, noise_prior)
        else:
            cast = Cast()
            seen = np.stack([read_lips(path, speech, sound) for path in paths]) if paths else None
        sound.notes += limits_of(
            chosen, speech.sample_rate, sound.rate, given_lips=bool(flags.lips)
        )
        if is_packaged(chosen) and total - (0 if seen is None else len(seen)) > 1:
            sound.warnings.append(f"{file}: {ALIKE}")
        extras = plan_extras(recording, file, sound, cast, total, flags.mux, flags.preview)
    sample_rate, seconds, length = sound.rate, sound.seconds, len(sound.audio)
    separator = Separator(speech, noise, settings, flags.device, execution_settings(flags))
    names = source_files(total)
    check_folder(out, [*names, *extras.names], [file, *paths], 4 * len(names) * length)

    rates = separator.sample_rate, sample_rate
    say(f"speech prior: {_with_origin(chosen)}; noise prior: {_with_origin(noise_prior)}")
    sound.print(recording)
    windows = separator.plan(round(seconds * separator.sample_rate))
    steps = separator.num_draw_steps * len(windows)
    signal = resample(sound.audio, sample_rate, separator.sample_rate)
    sound.audio = signal  # an hour at 48 kHz is not kept beside its estimates
    with tqdm(total=steps, unit="step", desc=one_line(recording)) as bar, _told_how_to_go_on(out):
        result = separator(
            torch.from_numpy(signal)[None],
            None if seen is None else torch.from_numpy(seen)[None],
            num_speakers=total,
            sample_rate=separator.sample_rate,
            keys=[file.stem],
            seed=flags.seed,
            callback=lambda step: bar.update(min(len(step.u), steps - bar.n)),  # not second tries
            kept=Kept(out / UNFINISHED, lambda num: bar.update(num * separator.num_draw_steps)),
        )
    if result.errors[0]:
        raise DavssError(result.errors[0])
    order, unclear = cast.order(result.speech[0].numpy(), separator.sample_rate)
    warnings = result.warnings[0] + [f"{recording}: {unclear}"] * bool(unclear)
    for warning in warnings:
        say(f"warning: {warning}")
    voices = [result.speech[0][number] for number in order]
    sources = dict(zip(names, [*voices, result.noise[0]], strict=True))
    spread, sure = None, {}
    if result.spread is not None:  # the noise, if it has one, is the last
        spread = result.spread[0]
        if list(order) != sorted(order):  # what may be large is not copied for nothing
            spread = spread[[*order, *range(total, len(spread))]]
        sure = {
            Path(name).stem: confidence(source, each, separator.sample_rate)
            for (name, source), each in zip(sources.items(), spread, strict=False)
        }
    result.noise.add_(sound.offset)
    used = paths if not own_picture or seen is not None else []
    report = {
        "davss_version": __version__,
        "input": str(recording),
        "lips": [str(recording if path == file else path) for path in used],
        "num_speakers": total,
        "speech_prior": str(chosen),
        "noise_prior": str(noise_prior),
        "sample_rate": sample_rate,
        "prior_sample_rate": separator.sample_rate,
        "bandwidth": min(sample_rate, separator.sample_rate) / 2,
        "seconds": seconds,
        "seed": flags.seed,
        "sampler": to_dict(settings),
        "windows": len(windows),
        "evaluations": result.num_evaluations,
        "retries": int(result.trace["retries"][0]),
        "warnings": sound.warnings + warnings,
        **({"confidence": sure} if sure else {}),
        **({"faces": cast.report()} if own_picture else {}),
    }
    blocks = {name: blocks_at_rate(source, *rates, length) for name, source in sources.items()}
    written = write_results(out, blocks, sample_rate, spread, report, extras)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return written


@contextmanager
def _told_how_to_go_on(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if (out / UNFINISHED).is_dir():
            say(f"note: --out {out}: the same command again goes on there")
        raise


def _with_origin(prior: Path | NoiseModel) -> str:
    return f"{prior}, packaged with davss {__version__}" if is_packaged(prior) else str(prior)


def limits_of(
    speech_prior: Path, prior_rate: int, sample_rate: int, *, given_lips: bool
) -> list[str]:
    """What of the recording, or of the lips given with it, a speech prior does not cover."""
    lines = []
    if sample_rate > prior_rate:
        lines.append(
            f"the priors work at {prior_rate} Hz, so the output has nothing above "
            f"{prior_rate // 2} Hz; the recording goes up to {sample_rate // 2} Hz"
        )
    if given_lips and is_packaged(speech_prior):
        lines.append(
            f"{speech_prior} was trained on one man's lips; for anyone else leave --lips out, and "
            "for one speaker give --speakers 1"
        )
    return lines


def set_threads() -> None:
    """As many threads as this process may use cores: torch counts those of the host, of which a
    container has few. OMP_NUM_THREADS takes precedence.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores.count())


def check_device(device: str | None) -> None:
    """Raise DavssError unless torch can compute there; None is always allowed."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DavssError(f"--device {device}: cannot be used here ({reason}); give cpu") from None


def packaged_for(num_speakers: int, with_lips: bool, noise_prior: Path | NoiseModel) -> Path:
    """The packaged speech prior that separates strangers best, at the rate of a noise prior."""
    slow = isinstance(noise_prior, Path) and str(noise_prior) != NOISE_16
    return Path(SPEECH if num_speakers > 1 or with_lips or slow else SPEECH_16)


def load_pair(
    speech_prior: Path, noise_prior: Path | NoiseModel
) -> tuple[SpeechPrior, NoisePrior | NoiseModel]:
    """Both priors, each of the right kind; an untrained noise model is represented by its name."""
    speech = load_prior(speech_prior)
    noise = load_prior(noise_prior) if isinstance(noise_prior, Path) else noise_prior
    if not isinstance(speech, SpeechPrior):
        raise DavssError(f"--speech-prior {speech_prior}: this is a noise prior; swap the two")
    if isinstance(noise, SpeechPrior):
        raise DavssError(f"--noise-prior {noise_prior}: this is a speech prior; swap the two")
    return speech, noise


def give_checkpoint(prior: SpeechPrior, checkpoint: Path | None) -> None:
    """Complete the prior's visual encoder, where that is BRAVEn; DavssError names the flag."""
    encoder = prior.visual_encoder
    if not isinstance(encoder, BravenLips):
        if checkpoint is not None:
            raise DavssError("--visual-encoder: the speech prior brings its own; leave it out")
        return
    if checkpoint is None:
        raise DavssError(
            "--visual-encoder: the speech prior's lips are features of BRAVEn; give its "
            f"checkpoint, the file with sha256 {encoder.sha256[:12]}…"
        )
    prior.visual_encoder = encoder.at(checkpoint)
