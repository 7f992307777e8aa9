"""Which addresses are refused before anybody is asked for them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_flows.outbound import PUBLIC_ONLY, AddressPolicy, check_url, policy_for
from kling_flows.outbound.addresses import kind_of

KINDS = {
    "0.0.0.0": "unspecified",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "0.1.2.3": "private",
    "192.0.0.1": "private",
    "192.0.2.1": "private",
    "198.18.0.1": "private",
    "198.51.100.1": "private",
    "203.0.113.1": "private",
    "100.64.0.1": "shared",
    "100.127.255.255": "shared",
    "169.254.169.254": "link-local",
    "192.88.99.1": "reserved",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "2606:4700::1111%1": "link-local",
    "fec0::1": "private",
    "fc00::1": "private",
    "fd12:3456::1": "private",
    "ff02::1": "multicast",
    "2001:db8::1": "reserved",
    "3fff::1": "reserved",
    "100::1": "reserved",
    "4000::1": "reserved",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:10.0.0.1": "private",
    "::ffff:0.0.0.0": "unspecified",
    "::127.0.0.1": "loopback",
    "::8.8.8.8": "reserved",
    "64:ff9b::127.0.0.1": "loopback",
    "64:ff9b::a9fe:a9fe": "link-local",
    "64:ff9b:1::808:808": "private",
    "2002:7f00:1::": "loopback",
    "2002:a00:1::1": "private",
    "2001:0:7f00:1::": "loopback",
    "2001:0:808:808:0:0:f5ff:fffe": "private",
    "2001:0:808:808:0:0:f7f7:f7f7": "reserved",
    "2606:4700::5efe:10.0.0.1": "private",
    "2606:4700::200:5efe:7f00:1": "loopback",
    "8.8.8.8": None,
    "100.63.255.255": None,
    "100.128.0.0": None,
    "172.32.0.1": None,
    "192.169.0.1": None,
    "2606:4700::1111": None,
    "2a00:1450:4001::1": None,
    "::ffff:8.8.8.8": None,
    "64:ff9b::8.8.8.8": None,
    "2002:808:808::1": None,
}


@pytest.mark.parametrize(("address", "kind"), KINDS.items(), ids=KINDS)
def test_what_is_special_about_an_address_is_known(address: str, kind: str | None) -> None:
    assert kind_of(ip_address(address)) == kind
    assert (PUBLIC_ONLY.refusal(ip_address(address), "x.example") is None) is (kind is None)


@given(st.ip_addresses(v=4))
def test_an_address_that_is_wrapped_in_another_is_judged_by_itself(address: IPv4Address) -> None:
    number = int(address)
    for wrapped in (
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(0x64_FF9B << 96 | number),
        IPv6Address(0x2002 << 112 | number << 80 | 1),
    ):
        assert kind_of(wrapped) == kind_of(address)


@given(st.ip_addresses())
def test_no_address_that_is_not_global_counts_as_public(address: IPv4Address | IPv6Address) -> None:
    # The other way round is not so: a translated address is not global by itself.
    if kind_of(address) is None and isinstance(address, IPv4Address):
        assert address.is_global
        assert not address.is_multicast


GOOD = [
    "https://v16-kling-fdl.klingai.com/a/b.mp4?x-kcdn-pid=1&sign=abc",
    "https://example.com",
    "https://example.com.",
    "https://EXAMPLE.com:8443/x",
    "https://bücher.example.com/",
    "https://8.8.8.8/x",
    "https://[2606:4700::1111]/x",
    "https://my_bucket.s3.amazonaws.com/x",
    "https://1.example.com/",
    "https://0x7f.example.com/",
]

BAD = [
    "",
    "example.com/x",
    "//example.com/x",
    "http://example.com/x",
    "ftp://example.com/x",
    "file:///etc/passwd",
    "gopher://example.com/",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    "https://",
    "https:///x",
    "https://user@example.com/",
    "https://user:secret@example.com/",
    "https://@example.com@127.0.0.1/",
    "https://example.com@127.0.0.1/",
    "https://:@example.com/",
    "https://127.0.0.1/",
    "https://127.0.0.1./",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0X7F.1/",
    "https://0177.0.0.1/",
    "https://127.0.0.0x1/",
    "https://8.8.8/",
    "https://1.2.3.4.5/",
    "https://300.1.1.1/",
    "https://4294967297/",
    "https://１２７.0.0.1/",
    "https://①②⑦.⓪.⓪.①/",
    "https://127。0。0。1/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[fe80::1%25eth0]/",
    "https://[::]/",
    "https://[::1/",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://a.localhost/",
    "https://ｌｏｃａｌｈｏｓｔ/",
    "https://ip6-localhost/",
    "https://printer.local/",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://x.home.arpa/",
    "https://intranet/",
    "https://169.254.169.254/latest/meta-data/",
    "https://100.100.100.200/",
    "https://0.0.0.0/",
    "https://0/",
    "https://exam%70le.com/",
    "https://example..com/",
    "https://.example.com/",
    "https://example.com../",
    "https://exa mple.com/",
    "https://example.com\\@127.0.0.1/",
    "https://example.com\t/",
    "https://example.com/\r\nHost: x",
    " https://example.com/",
    "https://example.com/\x00",
    "https://exa*mple.com/",
    "https://xn--a.example.com:0/",
    "https://example.com:99999/",
    "https://example.com:x/",
    "https://" + "a" * 64 + ".com/",
    "https://" + "a." * 130 + "com/",
    "https://\ud800.com/",
    "https://example.com/" + "a" * 5000,
]


@pytest.mark.parametrize("url", GOOD)
def test_an_address_of_the_internet_passes_the_door(url: str) -> None:
    assert check_url(url) is None


@pytest.mark.parametrize("url", BAD, ids=lambda url: ascii(url[:60]))
def test_every_other_address_is_stopped_at_the_door(url: str) -> None:
    assert check_url(url)


@given(st.text(), st.sampled_from(["", "https://", "http://"]))
def test_the_door_survives_any_text_and_never_repeats_it(text: str, scheme: str) -> None:
    reason = check_url(f"{scheme}{text}?sign=s3cr3t")
    assert reason is None or "s3cr3t" not in reason


def test_the_sandbox_s_videos_may_be_fetched_and_nothing_else_that_is_near() -> None:
    policy = policy_for("http://127.0.0.1:8900/v1")
    for good in ("http://127.0.0.1:1234/cdn/x.mp4", "http://localhost:1/x", "http://[::1]/x", "https://example.com/"):
        assert check_url(good, policy) is None
    for bad in (
        "http://10.0.0.1/",
        "http://169.254.169.254/",
        "http://0.0.0.0/",
        "http://intranet/",
        "ftp://127.0.0.1",
    ):
        assert check_url(bad, policy)
    assert policy_for("http://localhost:8900") == AddressPolicy(
        allow_loopback=True, allow_http=True, allowed_hosts=frozenset({"localhost"})
    )


def test_the_host_that_the_operator_has_named_is_trusted_and_its_neighbours_are_not() -> None:
    policy = policy_for("http://sandbox:8900")
    assert check_url("http://SANDBOX.:8900/x", policy) is None
    assert policy.refusal(ip_address("172.18.0.3"), "sandbox") is None
    assert policy.refusal(ip_address("172.18.0.3"), "db") is not None
    assert policy.refusal(ip_address("0.0.0.0"), "sandbox") is not None
    assert check_url("http://db:8900/x", policy)


def test_the_real_provider_s_policy_is_the_strictest() -> None:
    policy = policy_for("https://api-singapore.klingai.com")
    assert not any((policy.allow_http, policy.allow_loopback, policy.allow_private))
    assert check_url("https://127.0.0.1/", policy)
    assert policy_for() == PUBLIC_ONLY


def test_several_providers_together_are_allowed_what_each_of_them_is() -> None:
    policy = policy_for("https://api-singapore.klingai.com", "http://127.0.0.1:8900")
    assert check_url("http://127.0.0.1/x", policy) is None
    assert check_url("https://api-singapore.klingai.com/x", policy) is None


def test_private_networks_may_be_allowed_without_this_machine_or_metadata_services() -> None:
    policy = AddressPolicy(allow_private=True)
    assert check_url("https://10.1.2.3/", policy) is None
    assert check_url("https://hooks.internal/", policy) is None
    assert check_url("https://127.0.0.1/", policy)
    assert check_url("https://169.254.169.254/", policy)
