"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from kling_flows import __version__
from kling_flows.cli.commands.account import account
from kling_flows.cli.commands.audit import audit
from kling_flows.cli.commands.callbacks import callbacks
from kling_flows.cli.commands.demo import demo
from kling_flows.cli.commands.deploy import deploy
from kling_flows.cli.commands.doctor import doctor
from kling_flows.cli.commands.generate import generate
from kling_flows.cli.commands.ledger import ledger
from kling_flows.cli.commands.models import models, quote
from kling_flows.cli.commands.money import budgets
from kling_flows.cli.commands.sandbox import sandbox
from kling_flows.cli.commands.serve import serve
from kling_flows.cli.commands.tasks import cancel, get, list_, resolve
from kling_flows.cli.commands.token import token
from kling_flows.cli.commands.watch import watch
from kling_flows.cli.exit_codes import EPILOG
from kling_flows.cli.options import ALL_OPTIONS, ROOT_PANEL, root_options

_CLIENT_PANEL = "Videos"
_MONEY_PANEL = "Money"
_SERVER_PANEL = "Servers"

app = typer.Typer(
    name="kling-flows",
    help="Dependable Kling AI text-to-video: pays once, loses nothing, shows what is going on.",
    epilog=EPILOG,
    no_args_is_help=True,
    # A traceback of ours must not print the values of local variables: among them are keys.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kling-flows {__version__}")
        raise typer.Exit


@root_options(*ALL_OPTIONS)
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
            rich_help_panel=ROOT_PANEL,
        ),
    ] = False,
) -> None:
    """Options that every command takes behind its name as well."""


app.callback()(_root)
app.command(rich_help_panel=_CLIENT_PANEL)(generate)
app.command(rich_help_panel=_CLIENT_PANEL)(get)
app.command("list", rich_help_panel=_CLIENT_PANEL)(list_)
app.command(rich_help_panel=_CLIENT_PANEL)(watch)
app.command(rich_help_panel=_CLIENT_PANEL)(cancel)
app.command(rich_help_panel=_CLIENT_PANEL)(resolve)
app.command(rich_help_panel=_MONEY_PANEL)(models)
app.command(rich_help_panel=_MONEY_PANEL)(quote)
app.command(rich_help_panel=_MONEY_PANEL)(budgets)
app.command(rich_help_panel=_MONEY_PANEL)(account)
app.command(rich_help_panel=_CLIENT_PANEL)(callbacks)
app.command(rich_help_panel=_SERVER_PANEL)(demo)
app.command(rich_help_panel=_SERVER_PANEL)(serve)
app.command(rich_help_panel=_SERVER_PANEL)(doctor)
app.command(rich_help_panel=_SERVER_PANEL)(deploy)
app.command(rich_help_panel=_SERVER_PANEL)(audit)
app.command(rich_help_panel=_SERVER_PANEL)(sandbox)
app.command(rich_help_panel=_SERVER_PANEL)(token)
app.add_typer(ledger, name="ledger", rich_help_panel=_SERVER_PANEL)
