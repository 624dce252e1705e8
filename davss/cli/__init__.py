"""The command `davss`; importing it does not import torch."""

from davss.cli.commands import build_parser, main

__all__ = ["build_parser", "main"]
