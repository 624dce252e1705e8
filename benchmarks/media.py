"""How fast face videos become mouth crops, on one core and on two, and where the time goes.

    python -m benchmarks.media FOLDER [--clips 40]

FOLDER holds mp4 files at 25 frames per second, sound inside (`make repro` leaves some in
data/demo/voxceleb2/test). Every process has one thread. Times real time are seconds of video per
second of computing. The parts are of one process, in its processor time, which other work on the
machine changes little.

Shapes: V video frames.
"""

import argparse
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2

from davss.errors import ending_in_one_line
from davss.media import FPS
from davss.media.audio import read_audio
from davss.media.mouth import MouthFinder, crop_mouths
from davss.media.tracks import Follower, choose
from davss.media.video import read_video

finder: MouthFinder | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=40, help="how many (default: %(default)s)")
    arguments = parser.parse_args(argv)
    paths = sorted(arguments.folder.rglob("*.mp4"))[: arguments.clips]
    if not paths:
        parser.error(f"{arguments.folder}: no mp4 below it")
    context = multiprocessing.get_context("spawn")
    print("| processes | clips/s | × real time | × real time a core |\n|---|---|---|---|")
    rates = []
    for workers in (1, 2):
        with context.Pool(workers, prepare) as pool:
            pool.map(whole, paths[: 2 * workers], chunksize=1)  # the networks are loaded
            begin = time.perf_counter()
            seconds = sum(pool.imap_unordered(whole, paths))
            took = time.perf_counter() - begin
        rates.append(seconds / took)
        print(
            f"| {workers} | {len(paths) / took:.1f} | {rates[-1]:.1f} "
            f"| {rates[-1] / workers:.1f} |",
            flush=True,
        )
    print(f"\nTwo processes are {rates[1] / rates[0]:.2f} times as fast as one.\n")
    with context.Pool(1, prepare) as pool:
        parts = pool.apply(time_parts, (paths,))
    print("| part | ms a frame | share |\n|---|---|---|")
    frames, total = parts.pop("frames"), sum(parts.values())
    for name, spent in parts.items():
        print(f"| {name} | {1000 * spent / frames:.2f} | {spent / total:.0%} |")


def prepare() -> None:
    """One thread, and the networks."""
    global finder
    cv2.setNumThreads(1)
    finder = MouthFinder()


def whole(path: Path) -> float:
    """Sound and mouths of a clip as the shards stage reads them; its seconds of video."""
    assert finder is not None
    read_audio(path)
    return len(finder(read_video(path).frames, str(path)).crops) / FPS


def time_parts(paths: Sequence[Path]) -> dict[str, float]:
    """Seconds of each part over all clips, and the number of frames."""
    spent: Counter[str] = Counter()
    follow, clock = Follower(), time.process_time

    for path in paths:
        begin = clock()
        read_audio(path)
        sound = clock()
        frames = read_video(path).frames
        decoded = clock()
        tracks = follow(frames)
        followed = clock()
        track, _ = choose(tracks, frames.shape[1:3], 0.0, str(path))
        crop_mouths(frames[track.found], track.landmarks[track.found])
        spent.update(frames=len(frames))
        spent["decode the sound"] += sound - begin
        spent["decode the picture"] += decoded - sound
        spent["detector and landmarks"] += followed - decoded
        spent["warp and crop"] += clock() - followed
    return dict(spent)


if __name__ == "__main__":
    with ending_in_one_line():
        main()
