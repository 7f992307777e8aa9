"""Options that several commands share, and that may stand before or behind the command's name."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kling_flows.cli.words import Provider

if TYPE_CHECKING:
    from kling_flows.settings import Settings

ROOT_PANEL: Final = "Options"
_SETTINGS_PANEL: Final = "Settings of serve (or KLING_FLOWS_* variables, or the configuration file)"

_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}|unix:.+")


def _check_address(text: str | None) -> str | None:
    if text is not None and not _ADDRESS.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not host:port or unix:path; for example 127.0.0.1:50051")
    return text


def _setting(*declarations: str, **rest: Any) -> Any:
    return typer.Option(*declarations, rich_help_panel=_SETTINGS_PANEL, **rest)


#: Every shared option by the name of its parameter. None and False mean that it was not given.
_OPTIONS: Final[Mapping[str, Any]] = {
    "server": Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            callback=_check_address,
            help="The server to talk to; by default the one that the configuration names.",
        ),
    ],
    "config": Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Read this TOML file instead of the usual one.")
    ],
    "json": Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout; everything else goes to stderr.")
    ],
    "jsonl": Annotated[
        bool, typer.Option("--jsonl", help="As --json, each object on a line of its own and as soon as it is known.")
    ],
    "no_color": Annotated[bool, typer.Option("--no-color", help="Without colours.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Only the result, no progress and no hints.")],
    "provider": Annotated[Provider | None, _setting("--provider", help="Who makes the videos.")],
    "upstream_url": Annotated[
        str | None, _setting("--upstream-url", metavar="URL", help="Where the provider is, instead of its own host.")
    ],
    "listen": Annotated[
        str | None,
        _setting("--listen", metavar="HOST:PORT", callback=_check_address, help="Where gRPC is served."),
    ],
    "state_dir": Annotated[
        Path | None,
        _setting("--state-dir", metavar="DIR", help="Folder of the ledger, the archive and Prefect's data."),
    ],
    "archive": Annotated[
        str | None, _setting("--archive", metavar="DIR|URL", help="Where the videos go, for example s3://bucket/path.")
    ],
    "ledger_url": Annotated[
        str | None,
        _setting("--ledger-url", metavar="URL", help="Where the ledger is: sqlite:///FILE or postgresql://…"),
    ],
    "poll_interval": Annotated[
        float | None, _setting("--poll-interval", metavar="SECONDS", help="Seconds between two looks at a video task.")
    ],
    "prefect_api_url": Annotated[
        str | None,
        _setting("--prefect-api-url", metavar="URL", help="Use this Prefect server instead of starting one."),
    ],
}

#: Of every command that talks to a server.
CLIENT_OPTIONS: Final = ("server", "config", "json", "jsonl", "no_color", "quiet")
#: Of commands that start something and talk to people only.
PLAIN_OPTIONS: Final = ("no_color", "quiet")
#: Those that are settings of the same name.
SETTINGS_OPTIONS: Final = (
    "provider",
    "upstream_url",
    "listen",
    "state_dir",
    "archive",
    "ledger_url",
    "poll_interval",
    "prefect_api_url",
)
SERVE_OPTIONS: Final = ("config", *PLAIN_OPTIONS, *SETTINGS_OPTIONS)
ALL_OPTIONS: Final = tuple(_OPTIONS)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the shared options say, wherever on the line they stood.

    Args:
        values: Those that were given, by the names of their parameters.
    """

    values: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def json(self) -> bool:
        """Whether stdout is for a program."""
        return self.jsonl or bool(self.values.get("json"))

    @property
    def jsonl(self) -> bool:
        """Whether each object takes one line."""
        return bool(self.values.get("jsonl"))

    @property
    def quiet(self) -> bool:
        """Whether only results are wanted."""
        return bool(self.values.get("quiet"))

    @property
    def color(self) -> bool:
        """Whether colours are allowed."""
        return not self.values.get("no_color")

    def settings(self) -> Settings:
        """The settings, with the options of this command line over all other sources.

        Raises:
            ConfigurationError: one is malformed.
        """
        from kling_flows.settings import CONFIG_VARIABLE, Settings

        config: Path | None = self.values.get("config")
        if config is not None:
            # A variable and not an argument, so that child processes read the same file.
            os.environ[CONFIG_VARIABLE] = str(config.absolute())
        given = {name: self.values[name] for name in SETTINGS_OPTIONS if name in self.values}
        return Settings.load(**given)


def root_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add shared options to the function in front of all commands, and remember what they say for the command."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def wrapper(ctx: typer.Context, **values: Any) -> None:
            ctx.obj = _take(values, names)
            function(**values)

        return _with_signature(wrapper, _parameters(function), names)

    return decorate


def command(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command with these shared options; the function gets them as its first argument, a :class:`Shared`.

    Errors that the function raises are reported as the options ask for it, and become the exit code.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def wrapper(ctx: typer.Context, **values: Any) -> None:
            from kling_flows.cli.failures import reported

            before: dict[str, Any] = ctx.obj or {}
            _refuse_strays(ctx, before, names)
            _refuse_broken_text(values)
            shared = Shared(before | _take(values, names))
            with reported(shared):
                function(shared, **values)

        return _with_signature(wrapper, _parameters(function)[1:], names)

    return decorate


def _parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def _with_signature(
    wrapper: Callable[..., None], own: list[inspect.Parameter], names: tuple[str, ...]
) -> Callable[..., None]:
    """Show Typer, which reads signatures, the parameters of both."""
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_not_given(_OPTIONS[name]), annotation=_OPTIONS[name]
        )
        for name in names
    ]
    parameters = [context, *(item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own), *shared]
    wrapper.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    wrapper.__annotations__ = {item.name: item.annotation for item in parameters}
    return wrapper


def _not_given(annotation: Any) -> bool | None:
    return False if annotation.__origin__ is bool else None


def _take(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Remove the shared options from ``values``; returns those that were given."""
    taken = {name: values.pop(name) for name in names}
    return {name: value for name, value in taken.items() if value is not None and value is not False}


def _refuse_strays(ctx: typer.Context, before: Mapping[str, Any], names: tuple[str, ...]) -> None:
    # An option that is silently ignored is worse than an error: --state-dir before `get` would promise something.
    for name in before:
        if name not in names and name not in PLAIN_OPTIONS:
            raise typer.BadParameter(f"{ctx.info_name} does not take it", param_hint=f"--{name.replace('_', '-')}")


def _refuse_broken_text(values: Mapping[str, Any]) -> None:
    # Python carries bytes of the command line that are not UTF-8 along as characters that no message can hold.
    for name, value in values.items():
        for text in value if isinstance(value, list) else (value,):  # pyright: ignore[reportUnknownVariableType]
            if isinstance(text, str) and not text.isascii() and text.encode(errors="replace").decode() != text:
                raise typer.BadParameter("it is not valid UTF-8", param_hint=name.upper())
