from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: A name that only the tests' own resolver knows.
NAME = "videos.example.com"


@pytest.fixture(autouse=True)
def no_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading those of the machine takes longer than these tests."""
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


@dataclass
class Encryption:
    """A server's side of TLS, which notes the names that it is asked for."""

    context: ssl.SSLContext
    names: list[str | None] = field(default_factory=list[str | None])


@pytest.fixture
def encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encryption:
    """TLS for ``NAME`` and for 127.0.0.1, by a certificate that clients trust through the environment."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(NAME), x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    plain = serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    made = Encryption(context)
    context.sni_callback = lambda _socket, asked, _context: made.names.append(asked)
    return made


@dataclass
class Resolver:
    """What the loop's resolver says: one list of addresses per question, the last one for all further questions."""

    answers: list[list[str]] = field(default_factory=list[list[str]])
    asked: list[str] = field(default_factory=list[str])

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(host)
        return [(0, 0, 0, "", (address, port)) for address in answer]


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Resolver]:
    def answers(*addresses: list[str]) -> Resolver:
        made = Resolver(list(addresses))
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", made.getaddrinfo)
        return made

    return answers
