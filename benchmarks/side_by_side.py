"""Two people in one picture: does `davss separate` give each face its voice?

    python -m benchmarks.side_by_side VOXCELEB2 NOISE --out side_by_side.csv

VOXCELEB2 is a folder in its layout with GRID's people, one of whom the packaged prior was trained
on; NOISE a recording of 20 s or more. Each of PAIRS is made a video of 3 s, both voices equally
loud, and separated as a user would, with the defaults. Prints the SI-SDR at 8 kHz of each group.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import torch
from tqdm import tqdm

from benchmarks.strangers import plus_minus
from davss.cli.application import separate_file
from davss.cli.commands import build_parser
from davss.corpora.demo import write_mp4
from davss.evaluation.metrics import si_sdr
from davss.evaluation.statistics import interval
from davss.media.audio import read_audio, resample
from davss.media.video import Frames

RATE, SCORED, SECONDS, FPS = 16_000, 8_000, 3, 25


class Pair(NamedTuple):
    """Clips from the left to the right, and by how many dB each is louder than the noise."""

    group: str
    left: str
    right: str
    snr_db: float


KNOWN = "id10001/gridsone"  # the man whose lips are known
PAIRS = [
    Pair("validation", f"dev/mp4/{KNOWN}000/00017", "test/mp4/id10002/grid/00001", 5),
    Pair("validation", "test/mp4/id10003/grid/00001", f"dev/mp4/{KNOWN}000/00085", 10),
    Pair("validation", f"dev/mp4/{KNOWN}001/00037", "test/mp4/id10004/grid/00001", 5),
    Pair("validation", "test/mp4/id10002/grid/00001", f"dev/mp4/{KNOWN}001/00088", 10),
    Pair("validation", f"dev/mp4/{KNOWN}002/00047", "test/mp4/id10003/grid/00001", 5),
    Pair("validation", "test/mp4/id10004/grid/00001", f"dev/mp4/{KNOWN}002/00098", 10),
    Pair("test", f"test/mp4/{KNOWN}006/00043", "test/mp4/id10005/grid/00001", 5),
    Pair("test", "test/mp4/id10006/grid/00001", f"test/mp4/{KNOWN}006/00053", 10),
    Pair("test", f"test/mp4/{KNOWN}006/00063", "test/mp4/id10007/grid/00001", 5),
    Pair("test", "test/mp4/id10005/grid/00001", f"test/mp4/{KNOWN}006/00073", 10),
    Pair("test", f"test/mp4/{KNOWN}006/00083", "test/mp4/id10006/grid/00001", 5),
    Pair("test", "test/mp4/id10007/grid/00001", f"test/mp4/{KNOWN}006/00093", 10),
    Pair("strangers", "test/mp4/id10002/grid/00001", "test/mp4/id10005/grid/00001", 10),
    Pair("strangers", "test/mp4/id10006/grid/00001", "test/mp4/id10003/grid/00001", 5),
    Pair("strangers", "test/mp4/id10004/grid/00001", "test/mp4/id10007/grid/00001", 10),
]


def write_pair(pair: Pair, corpus: Path, scene: np.ndarray, path: Path) -> np.ndarray:
    """The video of a pair in the stretch `scene` of noise; returns the voices (2, T)."""
    clips = [corpus / f"{name}.mp4" for name in (pair.left, pair.right)]
    voices = np.stack([read_audio(clip, RATE)[0][: SECONDS * RATE] for clip in clips])
    voices *= 0.05 / voices.std(axis=1, keepdims=True)
    noise = 0.05 * 10 ** (-pair.snr_db / 20) * scene / scene.std()
    pictures = [np.stack(list(Frames(clip))[: SECONDS * FPS]) for clip in clips]
    write_mp4(path, np.concatenate(pictures, axis=2), voices.sum(axis=0) + noise)
    return voices


def scores(out: Path, recording: Path, voices: np.ndarray) -> dict[str, Any]:
    """SI-SDR before and after, which voices gained, and whether each face has its own."""
    given = [recording, *(out / f"speaker_{number}.wav" for number in (1, 2))]
    sounds = [read_audio(path, SCORED)[0] for path in given]
    references = [resample(voice, RATE, SCORED) for voice in voices]
    length = min(map(len, [*sounds, *references]))
    mixture, *found, left, right = (
        torch.from_numpy(sound[:length].copy()).float() for sound in [*sounds, *references]
    )
    truth, estimates = torch.stack([left, right]), torch.stack(found)
    before, after = si_sdr(mixture.expand_as(truth), truth), si_sdr(estimates, truth)
    swapped = si_sdr(estimates.flip(0), truth)
    faces = json.loads((out / "separation.json").read_text())["faces"]
    return {
        "mixture": before.mean().item(),
        "separated": after.mean().item(),
        "gained": int((after > before).sum()),
        "faces_right": bool(after.sum() >= swapped.sum()),
        "lips": " ".join("LR"[number] for number, face in enumerate(faces) if face["lips"]),
    }


def measure(corpus: Path, noise: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each pair."""
    scene, length = read_audio(noise, RATE)[0], SECONDS * RATE
    for number, pair in enumerate(tqdm(PAIRS, unit="pair")):
        path, out = folder / f"{number}.mp4", folder / str(number)
        start = number * RATE % (len(scene) - length)
        voices = write_pair(pair, corpus, scene[start : start + length], path)
        flags = build_parser().parse_args(["separate", str(path), "--out", str(out)])
        separate_file(path, out, flags)
        yield {**pair._asdict(), **scores(out, path, voices)}


def main(argv: Sequence[str] | None = None) -> None:
    """Separate all pairs, write a row for each, print a line for each group."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("voxceleb2", type=Path)
    parser.add_argument("noise", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = pandas.DataFrame(measure(arguments.voxceleb2, arguments.noise, Path(folder)))
    rows.to_csv(arguments.out, index=False, float_format="%.2f")
    print("| pairs | | mixture | separated | gain | both gain | faces right |")
    print("|---" * 7 + "|")
    for group, own in rows.groupby("group", sort=False):
        gain = plus_minus(interval(own.separated - own.mixture))
        levels = f"{own.mixture.mean():.1f} | {own.separated.mean():.1f}".replace("-", "−")
        counts = f"{(own.gained == 2).sum()} | {own.faces_right.sum()}"
        print(f"| {group} | {len(own)} | {levels} | {gain} | {counts} |")


if __name__ == "__main__":
    main()
