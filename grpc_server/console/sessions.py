"""Sessions of browsers: a cookie instead of the bearer token, and nothing kept on the server.

The cookie holds an expiry and a keyed hash of it and of the token's hash in the access file. So it opens nothing but
the console, it says nothing of the token, every front on the ledger knows it, also after a restart, and it ends at
once when the token leaves the access file or expires.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from grpc_server.auth.access_file import AccessList
from grpc_server.auth.identity import Identity
from kling_flows.errors import CredentialsRejected

#: Seconds until a browser has to sign in again.
SESSION_SECONDS: Final = 12 * 3600

_EXPIRY: Final = struct.Struct(">Q")
_PURPOSE: Final = b"console-session"


class Sessions:
    """Makes and opens the cookies of one ledger.

    Args:
        key: The ledger's.
        ledger_id: The ledger's.
        clock: Seconds since the epoch.
    """

    def __init__(self, key: bytes, ledger_id: str, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock
        #: Of this ledger: cookies do not tell the ports of a machine apart.
        self.cookie = f"kling_flows_{hashlib.sha256(ledger_id.encode()).hexdigest()[:8]}"

    def begin(self, access: AccessList, token: str) -> str:
        """The cookie's value for who shows a token.

        Raises:
            CredentialsRejected: the token is nobody's.
        """
        if access.by_token(token) is None:
            raise CredentialsRejected(
                "the token is not known to this server, or has expired; `kling-flows token` makes one for its access "
                "file"
            )
        expiry = _EXPIRY.pack(int(self._clock()) + SESSION_SECONDS)
        seal = self._seal(expiry, hashlib.sha256(token.encode()).hexdigest())
        return base64.urlsafe_b64encode(expiry + seal).decode()

    def open(self, access: AccessList, value: str) -> Identity | None:
        """Whose cookie it is; None if it is nobody's any more. Every entry is compared, each in constant time."""
        try:
            content = base64.urlsafe_b64decode(value.encode())
        except binascii.Error:
            return None
        expiry, seal = content[: _EXPIRY.size], content[_EXPIRY.size :]
        if len(expiry) < _EXPIRY.size or _EXPIRY.unpack(expiry)[0] <= self._clock():
            return None
        found = None
        for entry in access.token:
            if hmac.compare_digest(self._seal(expiry, entry.sha256), seal):
                found = entry
        return None if found is None else found.identity(found.name, datetime.now(UTC))

    def _seal(self, expiry: bytes, digest: str) -> bytes:
        return hmac.digest(self._key, b"\0".join((_PURPOSE, expiry, digest.encode())), "sha256")
