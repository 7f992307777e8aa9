"""JSON Web Signatures, apart from the credentials: who only checks a request need not import the cryptography."""

from __future__ import annotations

from typing import Final

from jwt import PyJWS
from jwt.algorithms import HMACAlgorithm


class _AnyLengthHmac(HMACAlgorithm):
    """HMAC without PyJWT's advice on key length: Kling chooses the length of its secret keys, its user cannot."""

    def check_key_length(self, key: bytes) -> str | None:
        return None


def _jws() -> PyJWS:
    jws = PyJWS(algorithms=[])
    jws.register_algorithm("HS256", _AnyLengthHmac(HMACAlgorithm.SHA256))
    return jws


JWS: Final = _jws()
