"""The data files that come with the package, and what whoever runs it knows better."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from kling_flows.errors import ConfigurationError

_T = TypeVar("_T", bound=BaseModel)

#: What every row says of itself.
_PROVENANCE: Final = ("source", "as_of")


class DataFile(Generic[_T]):
    """One file of rows, read on first use and checked then.

    Args:
        name: The file's name in this package.
        setting: What a second file is named by, whose rows are laid over those of the first.
        model: What it holds.
        parse_float: What becomes of its numbers with a point.
    """

    def __init__(self, name: str, setting: str, model: type[_T], parse_float: Any = float) -> None:
        self._name = name
        self._setting = setting
        self._model = model
        self._parse_float = parse_float
        self._content: _T | None = None
        self._laid_over = False

    @property
    def content(self) -> _T:
        """What it holds, with what was laid over it."""
        if self._content is None:
            self._content = self._model.model_validate(self._own())
        return self._content

    def lay_over(self, path: Path | None) -> Path | None:
        """Lay the rows of another file over its own, for all of this process; ``None``: its own alone.

        A row need only name what differs, and where that is known from: ``source`` and ``as_of``.

        Returns:
            The absolute path.

        Raises:
            ConfigurationError: The file cannot be read, or a row of it makes no sense; the row is named.
        """
        if path is None:
            # Settings are read again and again, mostly without such a file: what was read stays, and what rests on it.
            if self._laid_over:
                self._content, self._laid_over = None, False
            return None
        place = path.expanduser().absolute()
        try:
            over = tomllib.loads(place.read_text(encoding="utf-8"), parse_float=self._parse_float)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(self._setting, f"{place} cannot be read as TOML: {error}") from None
        merged = self._merged(self._own(), over, "")
        try:
            self._content = self._model.model_validate(merged)
            self._laid_over = True
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            what = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
            raise ConfigurationError(self._setting, f"{place}: {what}; its tables are those of {self._name}") from None
        return place

    def _own(self) -> dict[str, Any]:
        text = files("kling_flows.upstream").joinpath(self._name).read_text(encoding="utf-8")
        return tomllib.loads(text, parse_float=self._parse_float)

    def _merged(self, own: Mapping[str, Any], over: Mapping[str, Any], row: str) -> dict[str, Any]:
        missing = [name for name in _PROVENANCE if name in own and name not in over]
        if missing:
            raise ConfigurationError(
                self._setting, f"{row or 'the file'} does not say its {' and '.join(missing)}, as each row has to"
            )
        merged = dict(own)
        for name, value in over.items():
            path = f"{row}.{name}" if row else name
            below = own.get(name)
            if isinstance(below, dict) and isinstance(value, dict):
                merged[name] = self._merged(cast("dict[str, Any]", below), cast("dict[str, Any]", value), path)
            else:
                merged[name] = value
        return merged
