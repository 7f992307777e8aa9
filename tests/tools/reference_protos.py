"""The reference of the gRPC API and of the states, from the comments of the protos."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from kling_flows.ledger import State
from kling_flows.shown.events import event_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "kling_flows.v1"

#: The number of a child in its parent, as descriptor.proto has them: they make up the paths of the comments.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_MESSAGE, _MESSAGE_ENUM = 2, 3, 4
_CHILD = 2  # the methods of a service, the values of an enum

_Path = tuple[int, ...]


@dataclass(frozen=True)
class _File:
    """One proto, with its comments by their paths."""

    proto: Any
    comments: dict[_Path, str]

    def cell(self, path: _Path) -> str:
        return " ".join(self.comments.get(path, "").split()).replace("|", "\\|")

    def text(self, path: _Path) -> str:
        return self.comments.get(path, "").strip()


def _files() -> Iterator[_File]:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "protos.bin"
        sources = sorted(str(path) for path in (ROOT / "protos/kling_flows/v1").glob("*.proto"))
        includes = [f"-I{ROOT / 'protos'}", f"-I{files('grpc_tools') / '_proto'}"]
        if protoc.main(["protoc", *includes, "--include_source_info", f"--descriptor_set_out={made}", *sources]):
            raise SystemExit("the protos cannot be compiled; see above")
        known = FileDescriptorSet.FromString(made.read_bytes())
    for proto in known.file:
        comments = {
            tuple(place.path): "\n".join(line.removeprefix(" ") for line in place.leading_comments.splitlines())
            for place in proto.source_code_info.location
        }
        yield _File(proto, comments)


def _linked(name: str) -> str:
    """A type by its full name, linked if it is one of ours."""
    short = name.removeprefix(f".{PACKAGE}.")
    if short == name:
        return f"`{name.removeprefix('.')}`"
    return f"[`{short}`](#{short.lower().replace('.', '')})"


def _type(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    if field.type_name in maps:
        key, value = maps[field.type_name].field
        return f"map of {_type(key, maps)} to {_type(value, maps)}"
    if field.type_name:
        shown = _linked(field.type_name)
    else:
        shown = f"`{FieldDescriptorProto.Type.Name(field.type).removeprefix('TYPE_').lower()}`"
    return f"repeated {shown}" if field.label == FieldDescriptorProto.LABEL_REPEATED else shown


def _enum(file: _File, enum: EnumDescriptorProto, name: str, path: _Path) -> Iterator[str]:
    yield f"### {name}\n\n{file.text(path)}\n"
    yield "| Value | Number | Meaning |\n|---|---|---|"
    for index, value in enumerate(enum.value):
        yield f"| `{value.name}` | {value.number} | {file.cell((*path, _CHILD, index))} |"
    yield ""


def _message(file: _File, message: DescriptorProto, name: str, path: _Path) -> Iterator[str]:
    yield f"### {name}\n\n{file.text(path)}\n"
    maps = {f".{PACKAGE}.{name}.{inner.name}": inner for inner in message.nested_type if inner.options.map_entry}
    if message.field:
        yield "| Field | Type | Meaning |\n|---|---|---|"
    for index, field in enumerate(message.field):
        yield f"| `{field.name}` | {_type(field, maps)} | {file.cell((*path, _MESSAGE_FIELD, index))} |"
    yield ""
    for index, enum in enumerate(message.enum_type):
        yield from _enum(file, enum, f"{name}.{enum.name}", (*path, _MESSAGE_ENUM, index))
    for index, inner in enumerate(message.nested_type):
        if not inner.options.map_entry:
            yield from _message(file, inner, f"{name}.{inner.name}", (*path, _MESSAGE_MESSAGE, index))


def api() -> str:
    """Every RPC, message and enum."""
    found = list(_files())
    lines: list[str] = []
    for file in found:
        for number, service in enumerate(file.proto.service):
            lines.append(f"## {service.name}\n\n`{PACKAGE}.{service.name}`\n\n{file.text((_FILE_SERVICE, number))}\n")
            for index, method in enumerate(service.method):
                answer = f"{'a stream of ' if method.server_streaming else ''}{_linked(method.output_type)}"
                lines.append(f"### {method.name}\n\n{_linked(method.input_type)} → {answer}\n")
                lines.append(f"{file.text((_FILE_SERVICE, number, _CHILD, index))}\n")
    lines.append("## Messages\n")
    for file in found:
        for index, message in enumerate(file.proto.message_type):
            lines += _message(file, message, message.name, (_FILE_MESSAGE, index))
    lines.append("## Enums\n")
    for file in found:
        for index, enum in enumerate(file.proto.enum_type):
            lines += _enum(file, enum, enum.name, (_FILE_ENUM, index))
    return "\n".join(lines).rstrip()


def states() -> str:
    """What each state means, and what Prefect and a caller's own address are told of it."""
    meanings: dict[str, str] = {}
    for file in _files():
        for number, message in enumerate(file.proto.message_type):
            if message.name != "VideoTask":
                continue
            for index, value in enumerate(message.enum_type[0].value):
                meanings[value.name] = file.cell((_FILE_MESSAGE, number, _MESSAGE_ENUM, 0, _CHILD, index))
    rows = [
        f"| `{state.value}` | {meanings[state.value]} | `{event_name(state)}` | `video_task.{state.value.lower()}` |"
        for state in State
    ]
    return "\n".join(["| State | Meaning | Prefect event | Callback |", "|---|---|---|---|", *rows])
