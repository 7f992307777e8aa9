"""Stands for pip in the samples: ``pip install 'kling-flows[extra]'`` passes if the project has that extra."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def main(arguments: list[str]) -> int:
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    for wanted in arguments[1:]:
        match = re.fullmatch(r"kling-flows\[([a-z,]+)\]", wanted)
        if arguments[0] != "install" or match is None or not set(match[1].split(",")) <= set(extras):
            print(f"not an extra of kling-flows: {wanted}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
