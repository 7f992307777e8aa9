"""Writes what docs/ says of the sources from the sources, between its markers; `--check` only compares."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kling_flows.errors import KlingFlowsError
from kling_flows.settings import PREFIX, Settings
from kling_flows.upstream import UpstreamError
from tests.tools.reference_cli import commands
from tests.tools.reference_protos import api, states
from tests.tools.reference_python import python_api

ROOT = Path(__file__).resolve().parents[2]


def _tree(base: type[KlingFlowsError]) -> Iterator[type[KlingFlowsError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _tree(kind)


def _first_line(kind: type[KlingFlowsError]) -> str:
    return (kind.__doc__ or "").splitlines()[0].replace("``", "`")


def errors_table() -> str:
    rows = {
        f"| `{kind.reason}` | `{kind.grpc_code}` | {kind.exit_code} | {_first_line(kind)} |"
        for kind in _tree(KlingFlowsError)
        if kind is not UpstreamError and kind.__module__.startswith("kling_flows.") and "cli" not in kind.__module__
    }
    rows.add("| `INTERNAL` | `INTERNAL` | 1 | A bug of ours; the incident id finds it in the server's log. |")
    return "\n".join(["| Reason | gRPC status | Exit code | Meaning |", "|---|---|---|---|", *sorted(rows)])


def settings_table() -> str:
    rows: list[str] = []
    for name, info in Settings.model_fields.items():
        key = info.validation_alias is not None
        shown = name.upper() if key else PREFIX + name.upper()
        default = "" if info.default is None or name == "state_dir" else f"`{info.default}`"
        rows.append(f"| `{shown}` | {info.description} | {default} |")
    return "\n".join(["| Variable | Meaning | Default |", "|---|---|---|", *rows])


def render(text: str, name: str, content: str) -> str:
    return re.sub(
        rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)",
        lambda m: f"{m[1]}{content}\n{m[2]}",
        text,
        flags=re.DOTALL,
    )


def main(check: bool) -> int:
    import kling_flows.archive  # noqa: F401 - for its errors

    stale: list[str] = []
    made = {
        "errors": errors_table(),
        "settings": settings_table(),
        "reference/api": api(),
        "reference/cli": commands(),
        "reference/events": states(),
        "reference/python": python_api(),
    }
    for name, content in made.items():
        page = ROOT / "docs" / f"{name}.md"
        text = page.read_text()
        fresh = render(text, name.rpartition("/")[2], content)
        if fresh != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(fresh)
    if check and stale:
        sys.stderr.write(f"stale: {', '.join(stale)}; run `make reference` and commit the result\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
