"""The doctor finds each fault that is prepared here, says which it is, and what to do."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kling_flows.cli.doctor import Finding, Level, examine
from kling_flows.cli.options import Shared
from kling_flows.cli.output import Output
from kling_flows.ledger import Ledger
from kling_flows.sandbox import SandboxServer, SandboxSettings, Tls
from kling_flows.upstream.constants import SANDBOX_ACCESS_KEY, SANDBOX_API_KEY, SANDBOX_SECRET_KEY
from tests.front.certificates import Authority
from tests.front.rig import Rig

from .command import run

pytestmark = pytest.mark.xdist_group("doctor")

_BEGINNINGS = ("KLING", "COMETAPI", "PREFECT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT")


@pytest.fixture(scope="module")
def sandbox() -> Generator[SandboxServer]:
    with SandboxServer(SandboxSettings()) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith(_BEGINNINGS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


class Patient:
    """A machine on which everything is well until a test makes something wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, provider_url: str) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        self._monkeypatch = monkeypatch
        self.set(
            KLING_API_KEY=SANDBOX_API_KEY,
            KLING_FLOWS_UPSTREAM_URL=provider_url,
            KLING_FLOWS_STATE_DIR=str(self.state),
            KLING_FLOWS_LISTEN=f"127.0.0.1:{free_port()}",
            KLING_FLOWS_PREFECT_LISTEN=f"127.0.0.1:{free_port()}",
        )

    def set(self, **variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                self._monkeypatch.delenv(name, raising=False)
            else:
                self._monkeypatch.setenv(name, value)

    async def examined(self, **options: Any) -> dict[str, Finding]:
        shared = Shared({"quiet": True, **options})
        return {finding.check: finding async for finding in examine(shared, Output(shared))}

    async def fault(self, check: str, level: Level = Level.PROBLEM) -> str:
        """What is said of a check, which has to be the only one that finds something."""
        findings = await self.examined()
        wrong = {name: finding for name, finding in findings.items() if finding.level is not Level.OK}
        assert set(wrong) == {check}, wrong
        finding = wrong[check]
        assert (finding.level, bool(finding.remedy)) == (level, True)
        return f"{finding.found} -> {finding.remedy}"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sandbox: SandboxServer) -> Patient:
    return Patient(monkeypatch, tmp_path, sandbox.url)


@pytest.fixture
def faults(sandbox: SandboxServer) -> Generator[Callable[..., None]]:
    def put(*rules: dict[str, Any]) -> None:
        httpx.put(f"{sandbox.url}/sandbox/faults", json=list(rules)).raise_for_status()

    yield put
    put()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def answering(response: Callable[[], Response]) -> AsyncGenerator[str]:
    """The URL of a server that answers everything so."""

    async def answer(request: Request) -> Response:
        return response()

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "PUT", "POST", "DELETE"])])
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, log_config=None, lifespan="off", date_header=False, ws="none"))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def test_nothing_is_found_where_nothing_is_wrong_and_nothing_is_changed(patient: Patient) -> None:
    findings = await patient.examined()
    assert {finding.level for finding in findings.values()} == {Level.OK}, findings
    assert list(patient.state.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "check", "words"),
    [
        ({"KLING_FLOWS_POLL_INTERVAL": "soon"}, "configuration", ["KLING_FLOWS_POLL_INTERVAL"]),
        ({"KLING_FLOWS_CONFIG": "/nowhere/kling.toml"}, "configuration", ["kling.toml does not exist"]),
        ({"KLING_API_KEY": None}, "account", ["KLING_API_KEY", "--provider sandbox"]),
        ({"KLING_API_KEY": "half\nof it"}, "account", ["KLING_API_KEY", "copy it again"]),
        ({"KLING_FLOWS_DIALECT": "standard", "KLING_API_KEY": None} | {
            "KLING_ACCESS_KEY": "a", "KLING_SECRET_KEY": "b"}, "account", ["KLING_FLOWS_DIALECT", "API key only"]),
        ({"KLING_FLOWS_UPSTREAM_URL": "http://127.0.0.1:1"}, "provider", ["127.0.0.1 does not answer", "firewall"]),
        ({"KLING_FLOWS_UPSTREAM_URL": "https://kling.invalid"}, "provider", ["no name server knows kling.invalid"]),
        ({"KLING_API_KEY": "another"}, "key", ["does not know the key", "1002", "KLING_FLOWS_REGION"]),
        ({"KLING_API_KEY": None, "KLING_ACCESS_KEY": SANDBOX_ACCESS_KEY, "KLING_SECRET_KEY": "of-another-key"},
         "key", ["signature is wrong", "1000", "KLING_SECRET_KEY"]),
        ({"KLING_FLOWS_STATE_DIR": "/dev/null"}, "state folder", ["/dev/null is not a folder"]),
        ({"KLING_FLOWS_ARCHIVE": "/dev/null/videos"}, "archive", ["/dev/null", "KLING_FLOWS_ARCHIVE"]),
        ({"KLING_FLOWS_LEDGER_URL": "mysql://somewhere"}, "ledger", ["KLING_FLOWS_LEDGER_URL", "sqlite:///"]),
        ({"KLING_FLOWS_LEDGER_URL": "postgresql://me@127.0.0.1:1/x"}, "ledger", ["127.0.0.1:1/x", "database"]),
        ({"KLING_FLOWS_PREFECT_API_URL": "http://127.0.0.1:1/api"}, "prefect", ["no Prefect server", "start it"]),
        ({"KLING_FLOWS_LISTEN": "0.0.0.0:0"}, "access", ["KLING_FLOWS_ACCESS_FILE", "kling-flows token"]),
        ({"KLING_FLOWS_TLS_CERT": "/nowhere.pem"}, "tls", ["KLING_FLOWS_TLS_KEY", "go together"]),
        ({"KLING_FLOWS_SERVER_CA": "/nowhere.pem"}, "tls", ["KLING_FLOWS_SERVER_CA", "/nowhere.pem"]),
        ({"KLING_FLOWS_HTTP_LISTEN": "0.0.0.0:0"}, "http", ["KLING_FLOWS_HTTP_LISTEN", "reverse proxy"]),
        ({"KLING_FLOWS_CALLBACK_SECRETS": '["short"]'}, "callbacks", ["KLING_FLOWS_CALLBACK_SECRETS", "whsec_"]),
        ({"KLING_FLOWS_CALLBACK_BASE_URL": "https://video.example.com"}, "callbacks", ["KLING_FLOWS_HTTP_LISTEN"]),
        ({"KLING_FLOWS_CALLBACK_BASE_URL": "https://10.0.0.7", "KLING_FLOWS_HTTP_LISTEN": "127.0.0.1:0"},
         "callbacks", ["cannot call us: its address is private", "public"]),
        ({"KLING_FLOWS_CALLBACK_BASE_URL": "https://kling.invalid", "KLING_FLOWS_HTTP_LISTEN": "127.0.0.1:0"},
         "callbacks", ["no name server here knows kling.invalid"]),
    ],
)  # fmt: skip
async def test_a_wrong_setting_is_named(
    patient: Patient, variables: dict[str, str | None], check: str, words: list[str]
) -> None:
    patient.set(**variables)
    # Where the state folder cannot be used, what lies in it cannot either.
    if check == "state folder":
        patient.set(
            KLING_FLOWS_LEDGER_URL=f"sqlite:///{patient.folder}/ledger.db", KLING_FLOWS_ARCHIVE=str(patient.folder)
        )
    said = await patient.fault(check)
    for word in words:
        assert word in said


async def test_a_misspelt_variable_is_named_with_a_guess_and_without_its_value(patient: Patient) -> None:
    patient.set(KLING_FLOWS_ARCHIV="s3://private", KLING_FLOWS_KLING_API_KEY="secret-of-mine")
    said = await patient.fault("variables", Level.WARNING)
    assert "KLING_FLOWS_ARCHIV (did you mean KLING_FLOWS_ARCHIVE?)" in said
    assert "KLING_FLOWS_KLING_API_KEY" in said
    assert "secret-of-mine" not in said
    assert "private" not in said


async def test_a_broken_file_and_one_that_others_may_read(patient: Patient) -> None:
    file = patient.folder / "kling.toml"
    patient.set(KLING_FLOWS_CONFIG=str(file))
    file.write_text("listen = [")
    assert "cannot be read as TOML" in await patient.fault("configuration")
    file.write_text('webhook_secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"\n')
    file.chmod(0o644)
    assert f"chmod 600 {file}" in await patient.fault("configuration", Level.WARNING)
    file.chmod(0o600)
    assert (await patient.examined())["configuration"].level is Level.OK


async def test_a_certificate_of_nobody_we_know_and_a_port_without_tls(
    patient: Patient, sandbox: SandboxServer, tmp_path: Path
) -> None:
    cert, key = Authority(tmp_path / "ca").issue("somebody")
    with SandboxServer(SandboxSettings(), tls=Tls(cert, key)) as guarded:
        patient.set(KLING_FLOWS_UPSTREAM_URL=guarded.url)
        assert "the certificate of 127.0.0.1 is not trusted" in await patient.fault("provider")
    patient.set(KLING_FLOWS_UPSTREAM_URL=sandbox.url.replace("http:", "https:"))
    assert "does not speak TLS" in await patient.fault("provider")


@pytest.mark.parametrize(("seconds", "level"), [(120, Level.WARNING), (-120, Level.WARNING), (3_600, Level.PROBLEM)])
async def test_a_wrong_clock(patient: Patient, seconds: int, level: Level) -> None:
    def response() -> Response:
        theirs = datetime.now(UTC) - timedelta(seconds=seconds)
        return Response('{"code": 0, "data": {}}', headers={"date": format_datetime(theirs, usegmt=True)})

    patient.set(KLING_API_KEY=None, KLING_ACCESS_KEY=SANDBOX_ACCESS_KEY, KLING_SECRET_KEY=SANDBOX_SECRET_KEY)
    async with answering(response) as url:
        patient.set(KLING_FLOWS_UPSTREAM_URL=url)
        finding = (await patient.examined())["clock"]
    assert finding.level is level
    assert ("ahead of" if seconds > 0 else "behind") in finding.found
    assert "NTP" in finding.remedy


@pytest.mark.parametrize(
    ("code", "words"),
    [(1102, "cannot pay"), (1304, "from which addresses"), (1003, "not valid yet"), (1004, "expired")],
)
async def test_what_the_provider_refuses_is_explained(
    patient: Patient, faults: Callable[..., None], code: int, words: str
) -> None:
    faults({"fault": "http_error", "on": "account", "code": code})
    said = await patient.fault("key")
    assert words in said
    assert str(code) in said


async def test_a_ledger_that_is_locked(patient: Patient) -> None:
    await (await Ledger.open(f"sqlite:///{patient.state}/ledger.db")).close()
    holder = sqlite3.connect(patient.state / "ledger.db", isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        assert "is locked by another process" in await patient.fault("ledger")
    finally:
        holder.close()
    assert "schema" in (await patient.examined())["ledger"].found


async def test_a_ledger_of_a_newer_release_and_one_that_is_none(patient: Patient) -> None:
    path = patient.state / "ledger.db"
    await (await Ledger.open(f"sqlite:///{path}")).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("UPDATE alembic_version SET version_num = '9999'")
    holder.close()
    said = await patient.fault("ledger")
    assert "9999" in said
    assert "install the release that wrote it" in said
    for file in patient.state.glob("ledger.db*"):
        file.unlink()
    path.write_bytes(b"no database, but long enough to be taken for one" * 100)
    assert "restore a backup" in await patient.fault("ledger")


async def test_a_state_folder_that_others_may_look_into(patient: Patient) -> None:
    patient.state.chmod(0o755)
    assert f"chmod 700 {patient.state}" in await patient.fault("state folder", Level.WARNING)


async def test_object_storage_that_refuses(patient: Patient) -> None:
    async with answering(lambda: Response(status_code=403)) as url:
        patient.set(
            KLING_FLOWS_ARCHIVE="s3://videos/kling",
            KLING_FLOWS_ARCHIVE_OPTIONS=f'{{"aws_endpoint": "{url}", "aws_region": "x", "aws_access_key_id": "me", '
            '"aws_secret_access_key": "secret-of-mine"}',
            AWS_ALLOW_HTTP="true",
        )
        said = await patient.fault("archive")
    assert "s3://videos/kling cannot be used" in said
    assert "KLING_FLOWS_ARCHIVE_OPTIONS" in said
    assert "secret-of-mine" not in said
    patient.set(KLING_FLOWS_ARCHIVE_OPTIONS='{"aws_allow_http": "true"}')
    assert "an option is not one that the storage takes" in await patient.fault("archive")


@pytest.mark.parametrize(
    ("setting", "check"),
    [
        ("KLING_FLOWS_LISTEN", "server"),
        ("KLING_FLOWS_HTTP_LISTEN", "http"),
        ("KLING_FLOWS_RUNNER_METRICS_LISTEN", "runner metrics"),
        ("KLING_FLOWS_PREFECT_LISTEN", "prefect"),
    ],
)
async def test_a_port_that_somebody_else_has(patient: Patient, setting: str, check: str) -> None:
    async with answering(lambda: Response("hello")) as url:
        address = url.removeprefix("http://")
        patient.set(**{setting: address})
        said = await patient.fault(check)
    assert address in said
    assert setting in said


async def test_prefects_server_where_ours_would_be_and_another_release_of_it(patient: Patient) -> None:
    async with answering(lambda: Response("true")) as url:
        patient.set(KLING_FLOWS_PREFECT_LISTEN=url.removeprefix("http://"))
        assert f"KLING_FLOWS_PREFECT_API_URL={url}/api" in await patient.fault("prefect")
    async with answering(lambda: Response('"2.20.1"')) as url:
        patient.set(KLING_FLOWS_PREFECT_API_URL=f"{url}/api")
        assert "is 2.20.1" in await patient.fault("prefect", Level.WARNING)
    async with answering(lambda: Response(status_code=401)) as url:
        patient.set(KLING_FLOWS_PREFECT_API_URL=f"{url}/api")
        assert "PREFECT_API_AUTH_STRING" in await patient.fault("prefect")
    patient.set(KLING_FLOWS_PREFECT_API_URL=None, PREFECT_API_URL="http://127.0.0.1:4200/api")
    assert "PREFECT_API_URL is set" in await patient.fault("prefect", Level.WARNING)


async def test_a_server_that_runs_is_asked(patient: Patient, rig: Rig) -> None:
    served = await rig.serve()
    patient.set(KLING_FLOWS_LISTEN=served.front.address)
    assert "is serving" in (await patient.examined())["server"].found


async def test_a_server_that_does_not_let_us_in(patient: Patient, rig: Rig) -> None:
    token = "a-token-that-appears-nowhere-else"
    access = patient.folder / "access.toml"
    digest = hashlib.sha256(token.encode()).hexdigest()
    access.write_text(f'[[token]]\nname = "me"\nsha256 = "{digest}"\ntenant = "ads"\nscopes = ["read"]\n')
    served = await rig.serve(access_file=access)
    patient.set(KLING_FLOWS_LISTEN=served.front.address)
    said = await patient.fault("server")
    assert "CREDENTIALS_REJECTED" in said
    assert "KLING_FLOWS_TOKEN" in said
    patient.set(KLING_FLOWS_TOKEN=token)
    assert (await patient.examined())["server"].level is Level.OK


async def test_a_client_of_a_named_server_needs_no_key_of_the_provider(patient: Patient, rig: Rig) -> None:
    patient.set(KLING_API_KEY=None)
    served = await rig.serve()
    findings = await patient.examined(server=served.front.address)
    assert {finding.level for finding in findings.values()} == {Level.OK}, findings
    away = (await patient.examined(server="127.0.0.1:1"))["server"]
    assert (away.level, away.remedy) == (Level.PROBLEM, "start it there: kling-flows serve")


async def test_callers_whose_time_is_over(patient: Patient) -> None:
    access = patient.folder / "access.toml"
    patient.set(KLING_FLOWS_ACCESS_FILE=str(access))
    entry = f'[[token]]\nname = "ads"\nsha256 = "{"0" * 64}"\ntenant = "ads"\nscopes = ["read"]\n'
    access.write_text(f"{entry}expires = 2020-01-01T00:00:00Z\n")
    assert "lets nobody in: all have expired" in await patient.fault("access")
    access.write_text(f"{entry}expires = 2020-01-01T00:00:00Z\n{entry.replace('ads', 'news')}")
    assert "expired" in await patient.fault("access", Level.WARNING)
    access.write_text("[[token]]\nname = 1\n")
    assert "KLING_FLOWS_ACCESS_FILE" in await patient.fault("access")


async def test_certificates_that_do_not_fit_or_are_over(patient: Patient) -> None:
    authority = Authority(patient.folder / "ca")
    cert, key = authority.issue("server")
    other, _ = authority.issue("other")
    key.chmod(0o600)
    patient.set(KLING_FLOWS_TLS_CERT=str(other), KLING_FLOWS_TLS_KEY=str(key))
    assert f"{key} is not the key of {other}" in await patient.fault("tls")
    patient.set(KLING_FLOWS_TLS_CERT=str(cert))
    # The authority's certificates live for a day.
    assert f"{cert} expires on" in await patient.fault("tls", Level.WARNING)
    expired, its_key = certificate(patient.folder, days=-1)
    patient.set(KLING_FLOWS_TLS_CERT=str(expired), KLING_FLOWS_TLS_KEY=str(its_key))
    assert f"{expired} has expired on" in await patient.fault("tls")
    good, its_key = certificate(patient.folder, days=90)
    its_key.chmod(0o644)
    patient.set(KLING_FLOWS_TLS_CERT=str(good), KLING_FLOWS_TLS_KEY=str(its_key))
    assert f"chmod 600 {its_key}" in await patient.fault("tls", Level.WARNING)


def certificate(folder: Path, *, days: int) -> tuple[Path, Path]:
    """A certificate that signs itself and ends in so many days, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{days}.pem", folder / f"{days}.key"
    cert_file.write_bytes(signed.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_file, key_file


async def test_the_command_prints_a_line_for_each_check_and_has_an_exit_code(
    patient: Patient, sandbox: SandboxServer
) -> None:
    variables = {name: value for name, value in os.environ.items() if name.startswith("KLING")}
    ill = variables | {"KLING_API_KEY": "another"}
    well, machine, quiet = await asyncio.gather(
        run("doctor", env=variables), run("doctor", "--json", "--quiet", env=ill), run("doctor", "--quiet", env=ill)
    )
    assert well.code == 0, well.out
    assert {line.split()[0] for line in well.out.splitlines()} == {"ok"}
    assert "0 problems" in well.err
    assert (machine.code, machine.err, quiet.code) == (15, "", 15)
    [wrong] = [check for check in machine.json["checks"] if check["level"] != "ok"]
    assert (wrong["check"], wrong["level"]) == ("key", "problem")
    assert wrong["remedy"]
    assert len(quiet.out.splitlines()) == 1
    assert "another" not in quiet.out
