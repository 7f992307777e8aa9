"""Where words go: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import IO, Any, Final

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from kling_flows.cli.options import Shared

#: Columns where there is no terminal whose width could be asked for.
_WIDTH_WITHOUT_TERMINAL: Final = 160


class Output:
    """Both streams of one command.

    Args:
        shared: Whether colours, hints and JSON are wanted.
    """

    def __init__(self, shared: Shared) -> None:
        self.json = shared.json
        self.jsonl = shared.jsonl
        self.quiet = shared.quiet
        self.out = _console(sys.stdout, color=shared.color)
        self.err = _console(sys.stderr, color=shared.color)

    def result(self, renderable: RenderableType) -> None:
        """Print for people, on stdout."""
        self.out.print(renderable, soft_wrap=isinstance(renderable, Text))

    def line(self, text: str) -> None:
        """Print one line on stdout as it is."""
        typer.echo(text)

    def document(self, document: Mapping[str, Any], *, compact: bool = False) -> None:
        """Print JSON on stdout, on one line if that is wanted; at once, since somebody may be waiting for it."""
        typer.echo(json.dumps(document, indent=None if compact or self.jsonl else 2))

    def note(self, text: str, *, style: str = "dim") -> None:
        """Tell the person on stderr, unless only results are wanted."""
        if not self.quiet:
            self.err.print(Text(printable(text), style), soft_wrap=True)

    def complain(self, text: Text) -> None:
        """Print on stderr, always."""
        self.err.print(text, soft_wrap=True)

    def complain_document(self, document: Mapping[str, Any]) -> None:
        """Print JSON on stderr, on one line."""
        typer.echo(json.dumps(document), err=True)


def printable(text: str) -> str:
    """``text`` without what would steer the terminal; prompts and labels are written by others."""
    return "".join(character if character.isprintable() else " " for character in text)


def plain_table(*columns: str) -> Table:
    """A table without lines; columns that are named here fold what is too long."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _console(stream: IO[str], *, color: bool) -> Console:
    return Console(
        file=stream,
        color_system="auto" if color else None,
        width=None if stream.isatty() else _WIDTH_WITHOUT_TERMINAL,
        markup=False,
        highlight=False,
        emoji=False,
    )
