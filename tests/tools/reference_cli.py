"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer.main

from kling_flows.cli.app import app
from kling_flows.cli.exit_codes import EPILOG
from kling_flows.cli.options import ROOT_PANEL


def commands() -> str:
    """Every command with its arguments and options; those that all have stand once, at the top."""
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name="kling-flows")
    panels = _panels(root, context)
    lines = ["## Options of every command", "", "They may stand before or behind the command's name.", ""]
    for panel, records in panels.items():
        lines += _table("" if panel == ROOT_PANEL else panel, records)
    for name in root.list_commands(context):
        lines += _command(root.get_command(context, name), context, f"kling-flows {name}", panels[ROOT_PANEL])
    lines += ["## Exit codes", "", "| Code | Meaning |", "|---|---|"]
    for code, meaning in re.findall(r"^\s*(\d+)\s+(.+?)$", EPILOG, re.MULTILINE):
        lines.append(f"| {code} | {meaning} |")
    return "\n".join(lines)


def _command(command: Any, parent: Any, path: str, shared: dict[str, str]) -> Iterator[str]:
    context = command.context_class(command, info_name=path.rpartition(" ")[2], parent=parent)
    yield f"## {path}\n"
    yield f"{inspect.cleandoc(command.help or '').replace('[', chr(92) + '[')}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{path} {usage}\n```\n"
    for panel, records in _panels(command, context).items():
        own = {record: text for record, text in records.items() if record not in shared}
        if own:
            yield from _table("" if panel == ROOT_PANEL else panel, own)
    for name in getattr(command, "commands", {}):
        yield from _command(command.get_command(context, name), context, f"{path} {name}", shared)


def _panels(command: Any, context: Any) -> dict[str, dict[str, str]]:
    """What `--help` says of each argument and option, by the panel that it stands in."""
    panels: dict[str, dict[str, str]] = {}
    for parameter in command.get_params(context):
        record = None if parameter.name == "help" else parameter.get_help_record(context)
        if record is not None:
            panel = getattr(parameter, "rich_help_panel", None) or ROOT_PANEL
            panels.setdefault(panel, {})[record[0]] = record[1]
    return panels


def _table(title: str, records: dict[str, str]) -> Iterator[str]:
    if title:
        yield f"**{title}**\n"
    yield "| | |\n|---|---|"
    for record, text in records.items():
        yield f"| `{record.replace('|', chr(92) + '|')}` | {_cell(text)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;")
