"""Prompts from a pipe, one on each line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final

import typer

#: In place of the prompt: read them from stdin.
STDIN: Final = "-"

#: As many as one call creates.
MOST: Final = 1_000


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line.

    Args:
        line: Its number, from 1 and with the blank ones counted, as an editor shows it.
        text: Without the blanks around it.
    """

    line: int
    text: str


def read_prompts(stream: IO[bytes] | None = None) -> Sequence[Prompt]:
    """Every line that is not blank, of stdin by default.

    Raises:
        typer.BadParameter: there is none, there are more than `MOST`, or a line is not UTF-8.
    """
    prompts: list[Prompt] = []
    for number, line in enumerate(stream or sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise typer.BadParameter(f"line {number} of stdin is not valid UTF-8", param_hint="PROMPT") from None
        if text:
            prompts.append(Prompt(number, text))
    if not prompts:
        raise typer.BadParameter("stdin has no prompt; write one on each line", param_hint="PROMPT")
    if len(prompts) > MOST:
        raise typer.BadParameter(
            f"stdin has {len(prompts)} prompts, and {MOST} go at a time; divide them: split -l {MOST}",
            param_hint="PROMPT",
        )
    return prompts
