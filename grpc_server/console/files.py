"""The console's own files: small, read once, and served from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from starlette.requests import Request
from starlette.responses import Response

_FOLDER: Final = Path(__file__).with_name("static")

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


class Files:
    """Answers requests for files by their names.

    Args:
        files: All there are.
    """

    def __init__(self, files: Mapping[str, _File]) -> None:
        self._files = files

    @classmethod
    def read(cls) -> Self:
        """Those that are installed with this package."""
        return cls({path.name: _read(path) for path in _FOLDER.iterdir() if path.suffix in _TYPES})

    async def page(self, request: Request) -> Response:
        """The page that all addresses share: its script reads the address."""
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        """``GET /static/{name}``."""
        return self._answer(request, request.path_params["name"])

    def _answer(self, request: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            return Response("there is no such file\n", 404, media_type="text/plain")
        # Always asked again, so that a new release never meets an old script.
        headers = {"etag": file.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, 200, headers, file.media_type)


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
