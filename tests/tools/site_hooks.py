"""What MkDocs has to be told of our pages, which are meant to read well on GitHub too."""

from __future__ import annotations

import posixpath
import re
from typing import Any

#: Where files outside of ``docs/`` are shown.
SOURCE = "https://github.com/kling-flows/kling-flows/blob/main"

_FENCE = re.compile(r"^(\s*```\w+) norun$", re.MULTILINE)
_UPWARD = re.compile(r"\]\(((?:\.\./)+[^)\s#]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fences that the tests leave out lose their mark; links that leave ``docs/`` lead to the sources."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def source(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        return match[0] if target.startswith("docs/") else f"]({SOURCE}/{target}{match[2] or ''})"

    return _UPWARD.sub(source, _FENCE.sub(r"\1", markdown))
