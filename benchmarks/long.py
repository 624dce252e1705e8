"""Long recordings: time, memory and the error at the borders of windows.

    make repro && python -m benchmarks.long [--minutes 1 3 10] [--num-samples 1]

One test speaker of the demo talks, clip after clip, in test noise at 5 dB; a recording of every
length is separated in a process of its own, whose peak memory is read before and after, and once
more with two seconds in front, which moves the windows. Error at seams is that of the speech where
two windows overlap, relative to that of the same stretches where the other windows do not. The
plot, docs/long.svg, shows the memory of the process all along.

Shapes: T samples · V video frames · D visual feature size.
"""

import argparse
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from tqdm import tqdm

import davss
from davss.config import PRESETS, SamplerConfig, changed
from davss.errors import ending_in_one_line
from davss.evaluation.plots import new_figure, save_svg
from davss.posterior.steps import Step
from davss.shards.reader import ShardReader
from davss.storage import shard_store

SNR_DB = 5.0


def main() -> None:
    """One row of the table for every length."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--preset", choices=PRESETS, default="fast")
    parser.add_argument("--num-samples", type=int, default=1, help="draws (default: 1)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--plot", type=Path, default=Path("docs/long.svg"), help="of the memory")
    arguments = parser.parse_args()
    sampler = changed(PRESETS[arguments.preset], num_samples=arguments.num_samples)
    print(
        "| minutes | windows | s | real-time factor | memory before | growth | SI-SDR mixture "
        "| SI-SDR | error at seams |\n|---|---|---|---|---|---|---|---|---|"
    )
    curves = {}
    context = multiprocessing.get_context("spawn")
    for minutes in arguments.minutes:
        with context.Pool(1) as pool:
            row = pool.apply(measure, (minutes, sampler, arguments.threads))
        curves[minutes] = row["curve"]
        print(
            f"| {minutes:g} | {row['windows']} | {row['seconds']:.0f} "
            f"| {row['seconds'] / 60 / minutes:.2f} | {row['before']:.0f} MB "
            f"| {row['growth']:.0f} MB | {row['mixture']:.2f} dB | {row['speech']:.2f} dB "
            f"| {row['seams']:+.2f} dB |",
            flush=True,
        )
    plot_memory(curves, arguments.plot)


def measure(minutes: float, sampler: SamplerConfig, threads: int) -> dict[str, Any]:
    """Separate a recording of `minutes`; megabytes, seconds and dB."""
    torch.set_num_threads(threads)
    priors = [davss.load_prior(Path("data/priors") / name) for name in ("speech", "wham")]
    separator = davss.Separator(*priors, sampler=sampler)  # type: ignore[arg-type]
    rate = separator.sample_rate
    speech, noise, lips = read_recording(round(minutes * 60 * rate), rate)
    mixture = speech + noise
    # a first window, so that what torch allocates once does not count
    separator(mixture[None, : 4 * rate], lips[None, None, :100], sample_rate=rate)
    windows = separator.plan(len(mixture))
    process, curve = psutil.Process(), []
    before, begin = peak_megabytes(), time.perf_counter()
    with tqdm(total=len(windows) * separator.num_draw_steps, unit="step") as bar:

        def watch(step: Step) -> None:
            bar.update(len(step.u))
            curve.append((minutes * bar.n / bar.total, process.memory_info().rss / 2**20))

        result = separator(mixture[None], lips[None, None], sample_rate=rate, callback=watch)
    seconds, growth = time.perf_counter() - begin, peak_megabytes() - before
    lead = 2 * rate
    moved = separator(
        torch.cat([mixture[:lead], mixture])[None],
        torch.cat([lips[:50], lips])[None, None],
        sample_rate=rate,
    )
    errors = [(one - speech).square() for one in (result.speech[0, 0], moved.speech[0, 0, lead:])]
    seams = [seams_of(separator, len(speech)), seams_of(separator, len(speech) + lead)[lead:]]
    first, second = seams[0] & ~seams[1], seams[1] & ~seams[0]
    at_seams = torch.cat([errors[0][first], errors[1][second]])
    elsewhere = torch.cat([errors[1][first], errors[0][second]])
    return {
        "windows": len(windows),
        "seconds": seconds,
        "before": before,
        "growth": growth,
        "mixture": davss.si_sdr(mixture, speech).item(),
        "speech": davss.si_sdr(result.speech[0, 0], speech).item(),
        "curve": curve,
        "seams": 10 * torch.log10(at_seams.mean() / elsewhere.mean()).item(),
    }


def seams_of(separator: davss.Separator, length: int) -> torch.Tensor:
    """Where windows of a recording of `length` overlap, (length,) bool."""
    windows = separator.plan(length)
    seam = torch.zeros(windows.total, dtype=torch.bool)
    for index, start in enumerate(windows.starts[1:], start=1):
        seam[start : start + windows.overlaps(index)[0]] = True
    return seam[:length]


def read_recording(length: int, rate: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Speech (T,), noise (T,) and lips (V, D): clips of one test speaker, and of test noise, over
    and over.
    """
    reader = ShardReader(Path("data/shards/voxceleb2"), shard_store(), "test")
    speaker = reader.clips.speaker.iloc[0]
    clips = [reader[key] for key in reader.clips.key[reader.clips.speaker == speaker]]
    grid = rate // 25
    whole = [len(clip.audio) // grid for clip in clips]  # video frames
    speech = np.concatenate([c.audio[: n * grid] for c, n in zip(clips, whole, strict=True)])
    lips = np.concatenate([c.lips[:n] for c, n in zip(clips, whole, strict=True)])
    scenes = ShardReader(Path("data/shards/wham"), shard_store(), "test")
    noise = np.concatenate([scene.audio for scene in scenes])
    speech, noise = np.resize(speech, length), np.resize(noise, length)
    lips = np.resize(lips, (-(-length // grid), lips.shape[1]))
    noise = noise * speech.std() / noise.std() * 10 ** (-SNR_DB / 20)
    signals = (torch.from_numpy(a.astype(np.float32)) for a in (speech, noise, lips))
    return next(signals), next(signals), next(signals)


def plot_memory(curves: dict[float, list[tuple[float, float]]], path: Path) -> None:
    """Memory against minutes separated, a line for every length."""
    figure = new_figure(6.4, 3.2)
    axes = figure.add_subplot()
    for minutes, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), label=f"{minutes:g} min")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes separated")
    axes.set_ylabel("memory of the process (MiB)")
    axes.grid(alpha=0.3)
    axes.legend(title="recording", frameon=False)
    save_svg(figure, path, "long")


def peak_megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    with ending_in_one_line():
        main()
