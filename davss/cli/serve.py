"""`davss serve`: a page of this machine for whoever has a recording."""

from __future__ import annotations

import argparse
from typing import Any

from davss.errors import DavssError


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
    build_parser().parse_args(["separate", "recording", "--out", "out", *arguments.flags])
    try:
        from davss.serving.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise DavssError(f"serve: needs {error.name}; `pip install 'davss[serve]'`") from None
    serve(arguments.host, arguments.port, arguments.flags)
