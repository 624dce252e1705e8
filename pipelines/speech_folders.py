"""Write the speech of Debian packages as a corpus of speakers, OUT/SPEAKER/LEVEL_NNN.flac.

    apt-get download fillets-ng-data-cs fillets-ng-data-nl
    for package in *.deb; do dpkg-deb -x $package debian; done
    python -m pipelines.speech_folders debian data/raw/speech

Two Czech and two Dutch actors of the game Fish Fillets speak short lines; lines of one actor in one
level are put one behind another, for a training clip wants some seconds.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from davss.errors import DavssError
from davss.media.audio import read_audio, resample
from davss.storage import publish
from pipelines import run

RATE = 16_000
PAUSE = np.zeros(RATE // 5, np.float32)
CLIP_SECONDS = 8
_LINE = re.compile(r"[^-]+-([mv])-[^-]+\.ogg")  # of the small and of the big fish


def lines(root: Path) -> Iterator[tuple[str, list[Path]]]:
    """Speaker and lines of each level."""
    files = sorted(root.glob("usr/share/games/fillets-ng/sound/*/*/*.ogg"))
    spoken = [(path.parent, match[1], path) for path in files if (match := _LINE.match(path.name))]
    spoken.sort(key=lambda line: (line[1], line[0], line[2]))
    if not spoken:
        raise DavssError(f"{root}: no lines of fillets-ng below it; unpack the packages there")
    for (folder, fish), group in itertools.groupby(spoken, key=lambda line: (line[0], line[1])):
        yield f"fillets_{folder.name}_{fish}", [path for _, _, path in group]


def clips(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    """Lines one behind another, some seconds at a time, each at the same level."""
    parts: list[np.ndarray] = []
    for path in paths:
        if not soundfile.info(path).frames:  # a few lines of the game are empty
            continue
        audio, rate = read_audio(path)
        audio = resample(audio, rate, RATE)
        parts += [audio * np.float32(0.05 / max(float(audio.std()), 1e-6)), PAUSE]
        if sum(map(len, parts)) >= CLIP_SECONDS * RATE:
            yield np.concatenate(parts[:-1])
            parts = []
    if sum(map(len, parts)) >= CLIP_SECONDS * RATE / 2:
        yield np.concatenate(parts[:-1])


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("debian", type=Path, help="folder into which the packages were unpacked")
    parser.add_argument("out", type=Path, help="folder of the corpus")
    arguments = parser.parse_args(argv)
    for speaker, paths in tqdm(list(lines(arguments.debian)), unit="level"):
        folder = arguments.out / speaker
        folder.mkdir(parents=True, exist_ok=True)
        level = paths[0].parent.parent.name
        for number, audio in enumerate(clips(paths)):
            with publish(folder / f"{level}_{number:03d}.flac") as temporary:
                soundfile.write(temporary, audio.clip(-1, 1), RATE, format="FLAC")


if __name__ == "__main__":
    run(main, reads_params=False)
