"""The configuration file and the variables."""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from kling_flows.cli.doctor.finding import Finding, misconfigured, ok, warning
from kling_flows.cli.options import Shared
from kling_flows.errors import ConfigurationError
from kling_flows.logs import FORMAT_VARIABLE, LEVEL_VARIABLE
from kling_flows.processes import PARENT_VARIABLE, READY_VARIABLE
from kling_flows.sandbox.settings import SECRETS_VARIABLE
from kling_flows.settings import CONFIG_VARIABLE, PREFIX, Settings, configuration_file

_CHECK: Final = "configuration"
_VARIABLES: Final = "variables"

#: Variables that are ours although no setting is called so.
_OTHERS: Final = frozenset(
    {CONFIG_VARIABLE, FORMAT_VARIABLE, LEVEL_VARIABLE, PARENT_VARIABLE, READY_VARIABLE, SECRETS_VARIABLE}
)
#: How names begin that somebody meant for us or for a provider.
_MEANT: Final = ("KLING", "COMETAPI", "COMET_API")
#: How alike two names have to be for one to be taken for the other, from 0 to 1.
_ALIKE: Final = 0.7
_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO


def check_configuration(shared: Shared) -> tuple[Finding, Settings | None]:
    """The settings, and what is to be said of where they come from; None if they cannot be read."""
    try:
        settings = shared.settings()
    except ConfigurationError as error:
        return misconfigured(_CHECK, error), None
    file = configuration_file()
    if not file.is_file():
        return ok(_CHECK, f"no file at {file}; variables, options and defaults"), settings
    if _holds_secrets(file) and file.stat().st_mode & _OTHERS_MAY:
        return (
            warning(_CHECK, f"{file} holds secrets and other users may read it", f"chmod 600 {file}"),
            settings,
        )
    return ok(_CHECK, str(file)), settings


def check_variables() -> Finding:
    """Variables that look like ours and mean nothing; values are never shown."""
    known = {_variable(name) for name in Settings.model_fields} | _OTHERS
    strange = sorted(name for name in os.environ if name.upper().startswith(_MEANT) and name.upper() not in known)
    if not strange:
        return ok(_VARIABLES, f"{sum(name.upper() in known for name in os.environ)} set, all known")
    guesses = [f"{name} ({guess})" if (guess := _guess(name, known)) else name for name in strange]
    return warning(
        _VARIABLES,
        f"nothing reads {', '.join(guesses)}",
        "correct the name or unset it; docs/settings.md lists all names",
    )


def _guess(name: str, known: set[str]) -> str:
    alike = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=_ALIKE)
    return f"did you mean {alike[0]}?" if alike else ""


def _variable(setting: str) -> str:
    # Keys are called as their providers call them.
    own_name = Settings.model_fields[setting].validation_alias is not None
    return setting.upper() if own_name else PREFIX + setting.upper()


def _holds_secrets(file: Path) -> bool:
    secret = {name for name, field in Settings.model_fields.items() if SecretStr.__name__ in str(field.annotation)}
    return any(name.lower() in secret for name in tomllib.loads(file.read_text(encoding="utf-8")))
