"""`davss serve`: a page of this machine for whoever has a recording."""

from __future__ import annotations

import argparse
from typing import Any

from davss.errors import DavssError, require_packages

CHOSEN = ("out", "speakers", "lips", "faces", "off_screen")  # for each recording


def add_serve(commands: Any) -> None:
    """The subcommand `serve`."""
    command = commands.add_parser(
        "serve",
        help="a local page to drop a recording on",
        description="Serve a page of this machine: drop a recording, choose who speaks, listen to "
        "the result and save it. Each recording is one `davss separate --preview`, one at a time.",
    )
    add = command.add_argument
    add("--port", type=int, default=8000, help="to listen on; 0 takes a free one (default: 8000)")
    text = "address to listen on (default: 127.0.0.1, which this machine alone reaches)"
    add("--host", default="127.0.0.1", help=text)
    text = "flags of `davss separate` for every recording: davss serve -- --preset fast"
    add("flags", nargs="*", metavar="-- FLAG", help=text)
    command.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    from davss.cli.commands import build_parser

    # What is wrong with the flags is said now, not after the first recording.
    command = ["separate", "recording", "--out", "a folder of its own"]
    plain = build_parser().parse_args(command)
    given = build_parser().parse_args([*command, *arguments.flags])
    for name in CHOSEN:
        if getattr(plain, name) != getattr(given, name):
            flag = name.replace("_", "-")
            raise DavssError(f"serve: --{flag} is chosen for each recording; leave it out")
    require_packages("starlette", "uvicorn", extra="serve")
    from davss.serving.server import serve

    serve(arguments.host, arguments.port, arguments.flags)
