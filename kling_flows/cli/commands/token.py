"""``kling-flows token``."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Annotated

import typer

from kling_flows.cli.options import PLAIN_OPTIONS, Shared, command
from kling_flows.cli.words import Scope

_BYTES = 32


@command(*PLAIN_OPTIONS)
def token(
    shared: Shared,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for; shown in logs.")],
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose tasks it sees.")] = "default",
    scope: Annotated[
        list[Scope] | None, typer.Option("--scope", help="What it may do; repeatable. [read and write]")
    ] = None,
) -> None:
    """Make a token and its entry for the access file.

    The token is printed once, to stderr, and is not stored anywhere; the entry, which holds its hash, to stdout:
    kling-flows token ads-backend --tenant ads >> access.toml
    """
    from kling_flows.cli.output import Output

    output = Output(shared)
    made = f"kf_{secrets.token_urlsafe(_BYTES)}"
    scopes = [word.value for word in scope or (Scope.READ, Scope.WRITE)]
    # JSON's strings and lists are TOML's as well.
    for line in (
        "[[token]]",
        f"name = {json.dumps(name)}",
        f'sha256 = "{hashlib.sha256(made.encode()).hexdigest()}"',
        f"tenant = {json.dumps(tenant)}",
        f"scopes = {json.dumps(scopes)}",
    ):
        output.line(line)
    typer.echo(made, err=True)
    output.note("This is the only time that the token is shown; callers send it as 'authorization: Bearer <token>'.")
