"""The way to a server that wants to know who calls: real fronts, real TLS."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.front.certificates import Authority
from tests.front.rig import Rig

from .command import run

TOKEN = "a-token-that-appears-nowhere-else"


@pytest.fixture
def access_file(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    path.write_text(
        f'[[token]]\nname = "me"\nsha256 = "{digest}"\ntenant = "ads"\nscopes = ["read", "write"]\n'
        '[[certificate]]\nsubject = "me"\ntenant = "ads"\nscopes = ["read", "write"]\n'
    )
    return path


async def test_a_token_from_the_environment_is_sent(rig: Rig, access_file: Path) -> None:
    served = await rig.serve(access_file=access_file)
    arguments = ("generate", "a fox", "--detach", "--server", served.front.address)
    refused = await run(*arguments)
    assert refused.code == 9
    assert "authorization" in refused.err
    done = await run(*arguments, env={"KLING_FLOWS_TOKEN": TOKEN})
    assert done.code == 0
    assert (await served.ledger.get(done.out.strip().removeprefix("videoTasks/"))).tenant == "ads"


async def test_tls_and_a_client_certificate(rig: Rig, access_file: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    cert, key = authority.issue("server")
    served = await rig.serve(tls_cert=cert, tls_key=key, tls_client_ca=authority.path, access_file=access_file)
    client_cert, client_key = authority.issue("me")
    done = await run(
        *("generate", "a fox", "--detach", "--server", served.front.address),
        env={
            "KLING_FLOWS_SERVER_CA": str(authority.path),
            "KLING_FLOWS_CLIENT_CERT": str(client_cert),
            "KLING_FLOWS_CLIENT_KEY": str(client_key),
        },
    )
    assert done.code == 0, done.err


async def test_a_token_never_travels_in_the_clear() -> None:
    refused = await run("get", "vt-1", "--server", "198.51.100.1:50051", env={"KLING_FLOWS_TOKEN": TOKEN})
    assert refused.code == 4
    assert "KLING_FLOWS_SERVER_TLS" in refused.err
    assert TOKEN not in refused.err


async def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    env = {"KLING_FLOWS_SERVER_TLS": "1", "KLING_FLOWS_CLIENT_CERT": str(tmp_path / "c.pem")}
    refused = await run("get", "vt-1", "--server", "127.0.0.1:1", env=env)
    assert (refused.code, "KLING_FLOWS_CLIENT_KEY" in refused.err) == (4, True)


async def test_a_token_is_made_with_an_entry_that_lets_its_caller_in(rig: Rig, access_file: Path) -> None:
    made = await run("token", "robot", "--tenant", "ads", "--scope", "read", "--scope", "write", "--quiet")
    assert made.code == 0
    token = made.err.strip()
    assert token not in made.out
    access_file.write_text(made.out)
    served = await rig.serve(access_file=access_file)
    done = await run(
        *("generate", "a fox", "--detach", "--server", served.front.address), env={"KLING_FLOWS_TOKEN": token}
    )
    assert done.code == 0, done.err
