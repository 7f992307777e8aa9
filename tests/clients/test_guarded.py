"""Every client calls a server that wants TLS and a token."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.front.certificates import Authority
from tests.stack import Server, serve, serve_settings

from .client import Client

pytestmark = [pytest.mark.xdist_group("clients"), pytest.mark.timeout(1_200)]

TOKEN = "token-of-the-clients"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    access = folder / "access.toml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    access.write_text(
        f'[[token]]\nname = "clients"\nsha256 = "{digest}"\ntenant = "clients"\nscopes = ["read", "write"]\n'
    )
    certificate, key = authority.issue("server")
    settings = serve_settings(
        folder,
        "http://127.0.0.1:9",
        KLING_FLOWS_ACCESS_FILE=str(access),
        KLING_FLOWS_TLS_CERT=str(certificate),
        KLING_FLOWS_TLS_KEY=str(key),
    )
    with serve(folder, settings, "--role", "front") as running:
        yield running


def test_a_client_calls_over_tls_with_its_token(guarded: Server, client: Client, authority: Authority) -> None:
    ca = {"KLING_FLOWS_SERVER_CA": str(authority.path)}
    created = client.run(guarded.address, "create", "A paper boat", KLING_FLOWS_TOKEN=TOKEN, **ca)
    listed = client.run(guarded.address, "list", KLING_FLOWS_TOKEN=TOKEN, **ca)
    stranger = client.run(guarded.address, "list", check=False, **ca)

    assert created.lines[0] in [event.name for event in listed.events]
    assert (stranger.code, stranger.lines) == (1, [])
    # Node complains of an address without a name before it says so.
    assert "UNAUTHENTICATED (CREDENTIALS_REJECTED): " in stranger.complaints
