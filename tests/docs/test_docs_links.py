"""Links between the documents, and from them into the sources, lead somewhere."""

from __future__ import annotations

import re

import pytest

from tests.stack import ROOT

from .samples import pages

_LINK = re.compile(r"\]\((?!https?:|#)(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _anchors(text: str) -> set[str]:
    """As GitHub and MkDocs both make them."""
    return {"#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(text)}


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    for link in _LINK.finditer((ROOT / page).read_text()):
        target = (ROOT / page).parent / link["target"]
        assert target.exists(), link[0]
        if link["anchor"] and target.suffix == ".md":
            assert link["anchor"] in _anchors(target.read_text()), link[0]
