"""Secrets of callbacks, in either direction, as Standard Webhooks has them. Light: fronts import it."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from kling_flows.errors import ConfigurationError

#: Where the provider's callbacks arrive, below the base URL: ``/callbacks/{provider}/{token}``.
CALLBACKS_PATH: Final = "/callbacks"

_PREFIX: Final = "whsec_"

#: Standard Webhooks wants 24 to 64; what is shorter than this is no secret.
_LEAST_SECRET_BYTES: Final = 16


def webhook_of(setting: str, secret: SecretStr) -> Webhook:
    """What signs and verifies with a ``whsec_…`` secret.

    Raises:
        ConfigurationError: it is not one; ``setting`` is named.
    """
    text = secret.get_secret_value().removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < _LEAST_SECRET_BYTES:
        raise ConfigurationError(
            setting, f"is not whsec_ and at least {_LEAST_SECRET_BYTES} bytes in base64; copy it again, or make one"
        )
    return Webhook(key)
