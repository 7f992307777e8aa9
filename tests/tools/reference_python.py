"""The reference of the Python API, from the names of the package and their docstrings."""

from __future__ import annotations

import inspect
import os
import re
import tempfile
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import kling_flows

#: The headings of a docstring in Google's style.
_SECTIONS = ("Args:", "Returns:", "Raises:")


def python_api() -> str:
    """Every public name of ``kling_flows``."""
    lines: list[str] = []
    # Prefect makes its folder when it is imported; not in the home of whoever writes documents.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        os.environ["PREFECT_HOME"] = home
        for name in sorted(set(kling_flows.__all__) - {"__version__"}):
            thing = getattr(kling_flows, name)
            lines += _model(name, thing) if isinstance(thing, type) else _function(name, thing)
    return "\n".join(lines).rstrip()


def _model(name: str, model: type[BaseModel]) -> Iterator[str]:
    from prefect.blocks.core import Block

    block = issubclass(model, Block)
    yield f"## {name}\n\n{'A Prefect block. ' if block else ''}{_prose(model)}\n"
    yield "| Field | Type | Default | Meaning |\n|---|---|---|---|"
    for field, info in model.model_fields.items():
        if block and field in Block.model_fields:
            continue
        yield f"| `{field}` | `{_cell(_shown(info.annotation))}` | {_default(info)} | {_cell(info.description or '')} |"
    yield ""


def _function(name: str, thing: Any) -> Iterator[str]:
    function = inspect.unwrap(getattr(thing, "fn", thing))
    kind = {"Flow": "A Prefect flow. ", "Task": "A Prefect task. "}.get(type(thing).__name__, "")
    hints = typing.get_type_hints(function)
    parameters: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        default = "" if parameter.default is parameter.empty else f" = {_value(parameter.default)}"
        parameters.append(f"{star}{parameter.name}: {_shown(hints[parameter.name])}{default}")
    joined = "".join(f"    {parameter},\n" for parameter in parameters)
    yield f"## {name}\n\n```text\n{name}(\n{joined}) -> {_shown(hints['return'])}\n```\n"
    yield f"{kind}{_prose(function)}\n"


def _prose(thing: Any) -> str:
    """A docstring as Markdown; examples are left to the guides, where they are tried."""
    text = (inspect.getdoc(thing) or "").partition("\nExample:")[0]
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text).replace("``", "`")
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if line in _SECTIONS:
            section = line
            lines += [f"**{line.removesuffix(':')}**", ""]
        elif section in ("Args:", "Raises:") and re.match(r"    \S", line):
            item, _, meaning = line.strip().partition(": ")
            lines.append(f"- `{item}`: {meaning}")
        else:
            lines.append(line.strip() if section == "Returns:" else line)
    return "\n".join(lines).strip()


def _shown(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text).replace("NoneType", "None")


def _default(info: FieldInfo) -> str:
    if info.is_required() or info.default_factory is not None:
        return "" if info.is_required() else "empty"
    return f"`{_value(info.default)}`"


def _value(value: Any) -> str:
    return repr(value.value) if isinstance(value, Enum) else repr(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")
