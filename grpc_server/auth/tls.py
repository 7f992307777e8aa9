"""The server's TLS: certificates are read anew when their files change, without a restart."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from kling_flows.errors import ConfigurationError

log = structlog.get_logger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]

_CERT: Final = "KLING_FLOWS_TLS_CERT"
_KEY: Final = "KLING_FLOWS_TLS_KEY"
_CLIENT_CA: Final = "KLING_FLOWS_TLS_CLIENT_CA"


class TlsFiles:
    """A certificate chain, its key, and perhaps the authority of client certificates; all PEM.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or the key is not the certificate's.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._files = (cert, key) if client_ca is None else (cert, key, client_ca)
        self._cert, self._key, self._client_ca = cert, key, client_ca
        # gRPC asks from threads of its own, several at a time.
        self._lock = threading.Lock()
        self._stamp: _Stamp = self._read_stamp()
        self._configuration = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """What a server listens with. With a client authority every client has to show a certificate of it."""
        # The stubs do not know that a fetcher may say that nothing has changed.
        fetch: Any = self._fetch
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, fetch, require_client_authentication=self._client_ca is not None
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called for each handshake; None means that nothing has changed."""
        with self._lock:
            try:
                stamp = self._read_stamp()
                if stamp == self._stamp:
                    return None
                configuration = self._read()
            except ConfigurationError as error:
                # Half of an exchange, or a mistake: what was good before stays until it is mended.
                log.warning("the new certificate cannot be used; the former one stays", error=error.message)
                return None
            self._stamp, self._configuration = stamp, configuration
            log.info("the certificate was exchanged")
            return configuration

    def _read_stamp(self) -> _Stamp:
        try:
            stats = [path.stat() for path in self._files]
        except OSError as error:
            raise ConfigurationError(_CERT, f"{error.filename} cannot be read ({error.strerror})") from None
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        cert, key = _bytes(_CERT, self._cert), _bytes(_KEY, self._key)
        client_ca = None if self._client_ca is None else _bytes(_CLIENT_CA, self._client_ca)
        # gRPC would only say that a handshake failed.
        chain = _certificates(_CERT, self._cert, cert)
        try:
            public = load_pem_private_key(key, password=None).public_key()
        except (ValueError, TypeError) as error:
            raise ConfigurationError(_KEY, f"{self._key} is not a PEM key without a password: {error}") from None
        plain = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if public.public_bytes(*plain) != chain[0].public_key().public_bytes(*plain):
            raise ConfigurationError(_KEY, f"{self._key} is not the key of {self._cert}")
        if self._client_ca is not None and client_ca is not None:
            _certificates(_CLIENT_CA, self._client_ca, client_ca)
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=client_ca)


def _bytes(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(setting, f"{path} cannot be read ({error.strerror})") from None


def _certificates(setting: str, path: Path, content: bytes) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ConfigurationError(setting, f"{path} has no PEM certificate: {error}") from None
