"""The fenced blocks of the documents, and what makes a page of them a script."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.clients.toolchains import go, java_client, node_client
from tests.stack import ROOT

#: Marks a block that cannot be run here; each stands in ``test_docs_samples.NOT_RUN`` with its reason.
MARK = "norun"

#: Run, page by page, in their order and in one folder.
RUN = frozenset({"sh", "python", "go", "js"})

#: Run apart, because not every machine has what it needs.
JAVA = frozenset({"java"})

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)

#: What the documents leave out of a sample in Go, by what uses it.
_GO_IMPORTS = {
    "context.": '"context"',
    "fmt.": '"fmt"',
    "grpc.": '"google.golang.org/grpc"',
    "insecure.": '"google.golang.org/grpc/credentials/insecure"',
    "io.": '"io"',
    "log.": '"log"',
    "pb.": 'pb "github.com/kling-flows/kling-flows/examples/go/gen/kling_flows/v1"',
}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def first_line(self) -> str:
        """Without its comment."""
        return self.text.strip().partition("\n")[0].partition("   # ")[0]


def pages() -> list[str]:
    """The documents, relative to the root of the tree."""
    of_docs = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", "CONTRIBUTING.md", "SECURITY.md", *of_docs]


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text()
    for match in _FENCE.finditer(text):
        language, _, mark = match["info"].strip().partition(" ")
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, language, mark, textwrap.dedent(match["text"]))


def runnable(page: str, languages: frozenset[str] = RUN) -> list[Block]:
    return [block for block in blocks(page) if block.language in languages and block.mark != MARK]


class Folder:
    """Where the blocks of one page are run: as a reader's copy of the project, with servers that are there already."""

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self.folder = folder
        #: What the documents call the servers, and where these are.
        self._addresses = addresses
        self.binaries = folder / ".venv" / "bin"
        self.binaries.mkdir(parents=True)
        python, prefect = shlex.quote(sys.executable), shlex.quote(str(Path(sys.executable).with_name("prefect")))
        settings = "from kling_flows.settings import Settings; Settings.load()"
        self._command("python", f'exec {python} "$@"')
        # Servers run already: what is tried is that the command takes these flags, and serve these settings.
        self._command(
            "kling-flows",
            'case "$1" in\n'
            f"serve) {python} -c '{settings}' && exec {python} -m kling_flows.cli \"$@\" --help >/dev/null ;;\n"
            f'sandbox) exec {python} -m kling_flows.cli "$@" --help >/dev/null ;;\n'
            "esac\n"
            f'exec {python} -m kling_flows.cli "$@"',
        )
        self._command(
            "prefect",
            'case "$1 $2" in\n'
            f'"worker start" | "server start") exec {prefect} "$@" --help >/dev/null ;;\n'
            "esac\n"
            f'exec {prefect} "$@"',
        )
        # Nothing is installed: what is tried is that the project has these extras.
        self._command("pip", f'exec {python} {ROOT / "tests/docs/extras.py"} "$@"')
        # The targets are tried by those who are tested by them; what is tried is that they exist.
        self._command("make", f'exec {shutil.which("make")} --dry-run --directory {ROOT} "$@" >/dev/null')

    def script(self, samples: list[Block]) -> str:
        """The page as one bash script; the line before each block says where it stands."""
        lines = ["set -euo pipefail"]
        for number, block in enumerate(samples):
            text = self._here(block.text)
            lines.append(f"echo '== {block.page}:{block.line}' >&2")
            lines.append(self._command_for(block.language, f"sample{number}", text))
        # A server that was started in the background has to have accepted its flags.
        lines.append('for job in $(jobs -p); do wait "$job"; done')
        return "\n".join(lines)

    def _command_for(self, language: str, name: str, text: str) -> str:
        match language:
            case "python":
                return self._python(name, text)
            case "js":
                return self._js(name, text)
            case "go":
                return self._go(name, text)
            case "java":
                return self._java(text)
            case _:
                return text

    def _here(self, text: str) -> str:
        for told, true in self._addresses.items():
            text = text.replace(told, true)
        return text

    def _command(self, name: str, text: str) -> None:
        path = self.binaries / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def _python(self, name: str, text: str) -> str:
        (self.folder / f"{name}.py").write_text(text)
        return f"python {name}.py"

    def _js(self, name: str, text: str) -> str:
        (self.folder / f"{name}.mjs").write_text(text)
        node, main = node_client()
        for link, target in (("node_modules", Path(main).parents[1] / "node_modules"), ("protos", ROOT / "protos")):
            if not (self.folder / link).exists():
                (self.folder / link).symlink_to(target)
        return f"{shlex.quote(node)} {name}.mjs"

    def _go(self, name: str, text: str) -> str:
        module = self.folder / "go"
        if not module.exists():
            shutil.copytree(ROOT / "examples/go/gen", module / "gen")
            for file in ("go.mod", "go.sum"):
                shutil.copy(ROOT / "examples/go" / file, module)
        used = [path for use, path in _GO_IMPORTS.items() if re.search(rf"(?<![\w.]){re.escape(use)}", text)]
        program = ["package main", "import (", *used, ")", "func main() {", text, "}"]
        (module / name).mkdir()
        (module / name / "main.go").write_text("\n".join(program))
        return f"(cd go && {shlex.quote(go())} run ./{name})"

    def _java(self, text: str) -> str:
        public = re.search(r"^public class (\w+)", text, re.MULTILINE)
        assert public is not None, "a sample in Java is a file with a public class"
        (self.folder / f"{public[1]}.java").write_text(text)
        java, *options, _, jar = java_client()
        command = [java, *options, "-cp", f"{jar}:{Path(jar).parent}/lib/*", f"{public[1]}.java"]
        return shlex.join(command)
