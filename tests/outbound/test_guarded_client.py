"""The client against real servers on this machine, reached by names that mean what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from kling_flows.errors import AddressRefused
from kling_flows.outbound import PUBLIC_ONLY, AddressPolicy, policy_for
from kling_flows.outbound import client as outbound_client
from kling_flows.outbound.client import guarded_client

from ..archive.source import Headers, Reply, answers, serving
from .conftest import NAME, Encryption, Resolver

HERE = policy_for("http://127.0.0.1")
PLAIN = AddressPolicy(allow_http=True)

Answers = Callable[..., Resolver]


def client(policy: AddressPolicy, timeout: float = 10.0, **options: str) -> httpx.AsyncClient:
    return guarded_client(policy, timeout=timeout, **options)  # type: ignore[arg-type]


def named(url: str, name: str = NAME) -> str:
    return url.replace("127.0.0.1", name)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0.0.0.0", "[::ffff:7f00:1]"])
async def test_this_machine_is_not_reached_unless_it_is_allowed(host: str) -> None:
    async with serving(answers(200)) as source, client(PLAIN) as http:
        with pytest.raises(AddressRefused) as caught:
            await http.get(named(source.url, host))
        assert source.requests == []
    assert host.strip("[]") in caught.value.message
    assert "secret" not in caught.value.message


async def test_this_machine_is_reached_where_it_is_allowed() -> None:
    async with serving(answers(200, b"ok")) as source, client(HERE) as http:
        assert (await http.get(source.url)).content == b"ok"


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1"])
async def test_a_name_that_leads_into_a_private_network_is_refused(resolver: Answers, address: str) -> None:
    resolver([address])
    async with client(AddressPolicy(allow_http=True, allow_loopback=True)) as http:
        with pytest.raises(AddressRefused, match=NAME):
            await http.get(f"http://{NAME}/x?sign=secret")


async def test_one_bad_address_among_good_ones_is_enough(resolver: Answers) -> None:
    resolver(["127.0.0.1", "10.0.0.1"])
    async with serving(answers(200)) as source, client(HERE) as http:
        with pytest.raises(AddressRefused):
            await http.get(named(source.url))
        assert source.requests == []


async def test_a_name_is_resolved_once_and_the_address_that_was_checked_is_called(resolver: Answers) -> None:
    asked = resolver(["127.0.0.1"], ["10.0.0.1"])
    async with serving(answers(200, b"ok")) as source, client(HERE) as http:
        assert (await http.get(named(source.url))).content == b"ok"
        assert asked.asked == [NAME]
        assert source.requests[0]["host"].startswith(NAME)


async def test_a_new_connection_is_checked_anew(resolver: Answers) -> None:
    resolver(["127.0.0.1"], ["10.0.0.1"])
    async with serving(answers(200, b"ok", Connection="close")) as source, client(HERE) as http:
        await http.get(named(source.url))
        with pytest.raises(AddressRefused):
            await http.get(named(source.url))


async def test_another_address_is_tried_when_one_does_not_answer(resolver: Answers) -> None:
    resolver(["127.0.0.2", "127.0.0.1"])
    async with serving(answers(200, b"ok")) as source, client(HERE) as http:
        assert (await http.get(named(source.url))).content == b"ok"


async def test_tls_is_spoken_with_the_name_and_not_with_the_address(resolver: Answers, encryption: Encryption) -> None:
    resolver(["127.0.0.1"])
    async with (
        serving(answers(200, b"ok"), encrypted=encryption.context) as source,
        client(AddressPolicy(allow_loopback=True)) as http,
    ):
        assert (await http.get(named(source.url))).content == b"ok"
        assert source.requests[0]["host"].startswith(NAME)
    assert encryption.names == [NAME]


async def test_another_name_s_certificate_is_not_accepted(resolver: Answers, encryption: Encryption) -> None:
    resolver(["127.0.0.1"])
    async with (
        serving(answers(200), encrypted=encryption.context) as source,
        client(AddressPolicy(allow_loopback=True)) as http,
    ):
        with pytest.raises(httpx.ConnectError):
            await http.get(named(source.url, "other.example.com"))
        assert source.requests == []


async def test_http_is_refused_unless_it_is_allowed() -> None:
    async with serving(answers(200)) as source, client(AddressPolicy(allow_loopback=True)) as http:
        with pytest.raises(AddressRefused, match="https"):
            await http.get(source.url)
        assert source.requests == []


@pytest.mark.parametrize("location", ["http://user:s3cr3t@127.0.0.1/", "ftp://127.0.0.1/", "file:///etc/passwd"])
async def test_a_redirect_to_an_address_of_the_wrong_form_is_refused(location: str) -> None:
    async with serving(answers(302, Location=location)) as source, client(HERE) as http:
        with pytest.raises((AddressRefused, httpx.UnsupportedProtocol)) as caught:
            await http.get(source.url)
    assert "s3cr3t" not in str(caught.value)


async def test_a_redirect_into_a_private_network_is_refused(resolver: Answers) -> None:
    async with serving(answers(302, Location="http://metadata.example.com/latest?token=secret")) as source:
        resolver(["169.254.169.254"])
        async with client(AddressPolicy(allow_http=True, allowed_hosts=frozenset({NAME}))) as http:
            # The first hop is the one that the operator trusts.
            resolver(["127.0.0.1"], ["169.254.169.254"])
            with pytest.raises(AddressRefused, match=r"metadata\.example\.com") as caught:
                await http.get(named(source.url))
        assert len(source.requests) == 1
    assert "secret" not in caught.value.message


async def test_a_redirect_does_not_leave_encryption(encryption: Encryption) -> None:
    async with (
        serving(answers(200)) as plain,
        serving(answers(302, Location=plain.url), encrypted=encryption.context) as source,
        client(HERE) as http,
    ):
        with pytest.raises(AddressRefused, match="from https to http"):
            await http.get(source.url)
        assert plain.requests == []


async def test_a_redirect_may_turn_to_encryption(encryption: Encryption) -> None:
    async with (
        serving(answers(200, b"ok"), encrypted=encryption.context) as encrypted,
        serving(answers(307, Location=encrypted.url)) as source,
        client(HERE) as http,
    ):
        assert (await http.get(source.url)).content == b"ok"


async def test_redirects_end() -> None:
    async with serving(answers(302, Location="/again")) as source, client(HERE) as http:
        with pytest.raises(httpx.TooManyRedirects):
            await http.get(source.url)
        assert len(source.requests) == 6


def _endless(status: int, **headers: str) -> Reply:
    async def reply(_: Headers, writer: asyncio.StreamWriter) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode())
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    return reply


async def test_the_endless_body_of_a_redirect_is_not_read() -> None:
    async with serving(_endless(302, Location="/next"), answers(200, b"ok")) as source, client(HERE) as http:
        async with asyncio.timeout(60):
            assert (await http.get(source.url)).content == b"ok"


async def test_the_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(answers(200, b"ok")) as source, client(HERE) as http:
        assert (await http.get(source.url)).content == b"ok"


async def test_a_proxy_that_the_operator_names_is_asked_for_what_is_allowed() -> None:
    async with serving(answers(200, b"by proxy")) as proxy, client(PLAIN, proxy=proxy.url) as http:
        assert (await http.get(f"http://{NAME}/x")).content == b"by proxy"
        with pytest.raises(AddressRefused):
            await http.get("http://169.254.169.254/")
        assert [request["host"] for request in proxy.requests] == [NAME]


async def test_a_name_server_that_is_silent_does_not_hold_a_request_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", silent)
    monkeypatch.setattr(outbound_client, "_RESOLVE_SECONDS", 0.05)
    async with client(PUBLIC_ONLY) as http:
        async with asyncio.timeout(60):
            with pytest.raises(httpx.ConnectTimeout, match=NAME):
                await http.get(f"https://{NAME}/")


@pytest.mark.parametrize("port", [0, 65_536, 99_999_999])
async def test_a_port_that_there_is_not_is_refused(port: int) -> None:
    async with client(HERE) as http:
        with pytest.raises((AddressRefused, httpx.InvalidURL)):
            await http.get(f"http://127.0.0.1:{port}/")


async def test_a_name_without_an_address_is_an_ordinary_failure() -> None:
    async with client(PUBLIC_ONLY) as http:
        with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
            await http.get("https://nothing.invalid/")
