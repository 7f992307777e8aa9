"""A real browser: Debian's Chromium, installed where that can be, driven by Playwright."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
from platformdirs import user_cache_path
from playwright.sync_api import Browser, Page, Request, sync_playwright

from tests.clients.toolchains import run
from tests.stack import ROOT

#: Milliseconds that the browser waits for anything: a deadline against hanging, never an expectation of speed.
PATIENCE_MS = 120_000

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # What is measured must not depend on when the collector likes to run.
    "--js-flags=--expose-gc",
)


def chromium() -> str:
    """The machine's own, else Debian's; a machine that has none and lets nobody install it cannot try the pages."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        lock = user_cache_path("kling-flows-tests", ensure_exists=True) / "apt.lock"
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if shutil.which("chromium") is None:
                run(["apt-get", "update", "--quiet"], ROOT)
                packages = ["chromium", "fonts-dejavu-core"]
                run(["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *packages], ROOT)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("the console's pages need Chromium, or root on Debian to install it")
    return found


@contextmanager
def browsing() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One visitor: a page of a browser that remembers nothing of others, and what it has loaded and complained of."""

    def __init__(self, browser: Browser, origin: str, **context: Any) -> None:
        self.origin = origin
        self._context = browser.new_context(base_url=origin, viewport={"width": 1280, "height": 800}, **context)
        self._context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self._context.new_page()
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._note_request)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self._note_console(message.type, message.text))

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.foreign.append(request.url)

    def _note_console(self, kind: str, text: str) -> None:
        # The browser itself reports what the network says no with.
        if kind == "error" and "Failed to load resource" not in text and "net::ERR" not in text:
            self.complaints.append(text)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def open(self, path: str = "/console/") -> Page:
        self.page.goto(path)
        return self.page

    def accessibility(self) -> list[str]:
        """What axe finds wrong with the page as it is."""
        if not self.page.evaluate("typeof window.axe === 'object'"):
            self.page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{violation['id']}: {violation['help']}: {[node['html'][:120] for node in violation['nodes'][:3]]}"
            for violation in found["violations"]
        ]
