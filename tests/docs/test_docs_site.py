"""The site is built without a warning, and reads without the network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT, clean_environment

#: What a browser would load by itself.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|link(?=[^>]*rel=\"?(?:stylesheet|preload|icon|preconnect)))[^>]*?"
    r"(?:src|href)=\"?(https?:)?//",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=clean_environment(NO_MKDOCS_2_WARNING="true"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.xdist_group("docs-site")
def test_every_page_is_in_the_site(site: Path) -> None:
    made = {page.relative_to(site).with_suffix("").as_posix() for page in site.rglob("*.html")}
    written = {page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert {page.replace("README", "index") for page in written} <= made


@pytest.mark.xdist_group("docs-site")
def test_a_reader_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not _LOADED.search(page.read_text()), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", style.read_text()), style


@pytest.mark.xdist_group("docs-site")
def test_fences_keep_no_mark_of_the_tests(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "norun" not in page.read_text(), page
