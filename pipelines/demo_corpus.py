"""Stage: write the demo corpora (VoxCeleb2, WHAM!, DNS layouts) from the recordings embedded in
this repository.

python -m pipelines.demo_corpus --params params.yaml --out data/demo
"""

from __future__ import annotations

from pathlib import Path

from davss import cores
from davss.config import DemoConfig, load_section
from davss.corpora.demo import check_recordings, write_dns, write_voxceleb2, write_wham
from davss.storage import publish
from pipelines import run, stage_parser

RECORDINGS = Path(__file__).parent / "demo_data"


def main(argv: list[str] | None = None) -> None:
    """Read params section `demo` and write the corpora, all or nothing."""
    parser = stage_parser("demo_corpus", __doc__)
    parser.add_argument("--out", type=Path, default=Path("data/demo"), help="directory to write")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, help="embedded recordings")
    parser.add_argument("--workers", type=int, default=cores.count(), help="processes")
    arguments = parser.parse_args(argv)
    config = load_section(arguments.params, "demo", DemoConfig)
    recordings, out = arguments.recordings, arguments.out
    check_recordings(recordings, config)
    with (
        publish(out / "voxceleb2") as voxceleb2,
        publish(out / "wham" / "wham_noise") as wham,
        publish(out / "dns" / "datasets_fullband" / "noise_fullband") as dns,
    ):
        write_wham(recordings, wham, config)
        write_dns(recordings, dns, config)
        write_voxceleb2(recordings, voxceleb2, config, arguments.workers)


if __name__ == "__main__":
    run(main)
