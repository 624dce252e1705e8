"""`davss score`: a folder of estimates against a folder of references."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from davss import cores
from davss.cli.flags import Help, path
from davss.errors import DavssError, say
from davss.storage import publish

RATIOS = ("si_sdr", "si_sdr_mixture", "si_sdri", "si_sir", "si_sar")
PERCEPTUAL = ("pesq", "pesq_mixture", "estoi", "estoi_mixture")
METRICS = ("perceptual", "dnsmos", "words", "speaker")
EXTRA = "pip install '.[listeners]'"


def add_score(commands: Any) -> None:
    """The subcommand and its flags."""
    command = commands.add_parser(
        "score",
        help="scores of estimates, anybody's, against references",
        description="Scores separated or enhanced recordings. Estimates and references belong "
        "together when their paths in the two folders are the same, but for the ending. Where a "
        "recording has several sources, a folder or file named s1, s2, ... (spk1, speaker_1, "
        "source1) or noise says which one it holds: DIR/NAME/speaker_1.wav or DIR/s1/NAME.wav. "
        "Speakers are assigned so that the sum of SI-SDR is the highest. What cannot be scored has "
        "the reason in its row, and makes the exit status 2.",
        formatter_class=Help,
    )
    add = command.add_argument
    add("--estimates", type=path, required=True, metavar="DIR", help="what is scored")
    add("--references", type=path, required=True, metavar="DIR", help="the clean sources")
    add("--mixtures", type=path, metavar="DIR", help="NAME.wav of each, for what is gained over it")
    text = "speaker_1 is an estimate of speaker_1, and so on (default: the best assignment)"
    add("--in-order", action="store_true", help=text)
    text = (
        "besides SI-SDR, SI-SIR and SI-SAR: perceptual (PESQ, ESTOI), dnsmos (P.835), words (WER "
    )
    text += "and CER of Whisper base, against what it hears in the reference), speaker (similarity "
    text += "of voices); none takes none (default: all that are installed)"
    add("--metrics", nargs="+", choices=(*METRICS, "none"), metavar="NAME", help=text)
    add("--processes", type=int, metavar="N", help="of scoring (default: CPU cores)")
    add("--csv", type=path, metavar="FILE", help="write a line for every source")
    add("--json", action="store_true", help="print JSON: means, and a row for every source")
    command.set_defaults(run=_score)


def _score(arguments: argparse.Namespace) -> None:
    if arguments.processes is not None and arguments.processes < 1:
        raise DavssError(f"--processes {arguments.processes}: give 1 or more")
    from davss.evaluation import folders, listeners  # torch is imported only when there is work

    if arguments.csv:
        _require_writable(arguments.csv)
    chosen = _metrics(arguments.metrics)
    recordings = folders.match(arguments.estimates, arguments.references, arguments.mixtures)
    heard = [name for name in chosen if name != "perceptual"]
    rows = folders.score_folders(
        recordings,
        in_order=arguments.in_order,
        perceptual="perceptual" in chosen,
        listeners=heard,
        num_processes=arguments.processes or cores.count(),
    )
    if arguments.csv:
        with publish(arguments.csv) as temporary:
            rows.to_csv(temporary, index=False)
    metrics = [*RATIOS, *(PERCEPTUAL if "perceptual" in chosen else ())]
    table = folders.summary(rows, [*metrics, *listeners.metrics_of(heard)])
    failed = rows[rows.si_sdr.isna()] if "si_sdr" in rows else rows
    print(_json(table, rows) if arguments.json else _text(table))
    for row in rows[rows.error.notna()].to_dict("records"):
        say(f"note: {row['name']} ({row['source']}): {row['error']}")
    if len(failed):
        raise DavssError(f"{len(failed)} of {len(rows)} sources were not scored; see above")


def _require_writable(path: Path) -> None:
    """Raise DavssError unless a table can be written there, in place of no recording or folder."""
    from davss.cli.output import staging_folder
    from davss.media.decoding import SUFFIXES

    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        kind = "a folder" if path.is_dir() else "the name of a recording"
        raise DavssError(f"--csv {path}: {kind}; give the name of a table, such as scores.csv")
    with staging_folder(path.parent, f"--csv {path}"):
        pass


def _metrics(given: list[str] | None) -> list[str]:
    """What is computed; a line about what is not installed."""
    from davss.evaluation.listeners import PACKAGES, missing_packages

    wanted = list(METRICS) if given is None else [name for name in given if name != "none"]
    absent = {name: missing_packages(name) for name in wanted if name in PACKAGES}
    absent = {name: packages for name, packages in absent.items() if packages}
    if absent:
        text = ", ".join(f"{name} ({', '.join(packages)})" for name, packages in absent.items())
        if given is not None:
            raise DavssError(f"--metrics: not installed: {text}; install them with `{EXTRA}`")
        print(f"note: not installed, left out: {text}; `{EXTRA}`", file=sys.stderr)
    return [name for name in wanted if name not in absent]


def _text(table: Any) -> str:
    """The means, aligned."""
    if table.empty:
        return "nothing could be scored"
    shown = table.rename(columns={"mean_ci": "±"})
    return shown.to_string(index=False, float_format="{:.3f}".format, na_rep="nan")


def _json(table: Any, rows: Any) -> str:
    """Everything; what is no finite number is null."""
    import pandas

    def plain(frame: pandas.DataFrame) -> list[dict[str, Any]]:
        return json.loads(frame.to_json(orient="records", double_precision=6))

    return json.dumps({"means": plain(table), "rows": plain(rows)}, indent=2)
