"""Which addresses a request may go to.

The ranges are those of IANA's special-purpose address registries (RFC 6890), as the standard library knows them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

import idna

IPAddress = IPv4Address | IPv6Address

#: Characters of the longest URL that is taken.
MAX_URL_LENGTH: Final = 4096

_SHARED: Final = IPv4Network("100.64.0.0/10")  # RFC 6598, carrier-grade NAT
_RELAY: Final = IPv4Network("192.88.99.0/24")  # RFC 7526, deprecated 6to4 relays
_UNICAST: Final = IPv6Network("2000::/3")  # RFC 4291, 2.4: all that is assigned for use in the Internet
_COMPATIBLE: Final = IPv6Network("::/96")  # RFC 4291, 2.5.5.1
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")  # RFC 6052, NAT64
_LOCAL_TRANSLATED: Final = IPv6Network("64:ff9b:1::/48")  # RFC 8215
_DOCUMENTATION: Final = IPv6Network("3fff::/20")  # RFC 9637, newer than some releases of the standard library
_UNIQUE_LOCAL: Final = IPv6Network("fc00::/7")  # RFC 4193
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})  # RFC 5214, 6.1

_PRIVATE: Final = frozenset({"private", "shared"})
_LOOPBACK: Final = "loopback"
#: No host answers there, whoever names it.
_NOWHERE: Final = frozenset({"unspecified", "multicast"})

_LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
#: RFC 6761, 6762, 8375, and what clouds and home routers use.
_PRIVATE_SUFFIXES: Final = ("local", "localdomain", "internal", "intranet", "lan", "home.arpa")


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What is allowed besides https to public addresses.

    Args:
        allow_private: Private, unique local and carrier-grade NAT addresses.
        allow_loopback: This machine.
        allow_http: Requests without encryption.
        allowed_hosts: Names, or addresses in their usual form, which the operator trusts wherever they lead.
    """

    allow_private: bool = False
    allow_loopback: bool = False
    allow_http: bool = False
    allowed_hosts: frozenset[str] = field(default_factory=frozenset[str])

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowed_hosts", frozenset(_plain(host) for host in self.allowed_hosts))

    def refusal(self, address: IPAddress, host: str) -> str | None:
        """Why ``host`` must not be reached at ``address``, in a few words; ``None`` if it may be."""
        kind = kind_of(address)
        if kind is None or self._allows(kind, host):
            return None
        return f"its address is {kind}"

    def _allows(self, kind: str, host: str) -> bool:
        if kind in _NOWHERE:
            return False
        return (
            _plain(host) in self.allowed_hosts
            or (kind in _PRIVATE and self.allow_private)
            or (kind == _LOOPBACK and self.allow_loopback)
        )

    def check(self, scheme: str, userinfo: str, host: str, port: int | None) -> str | None:
        """Why a URL of these parts must not be asked for, as far as it shows without asking a name server."""
        scheme = scheme.lower()
        if scheme not in ("http", "https"):
            return "the URL must begin with https://"
        if scheme == "http" and not self.allow_http:
            return "http is not encrypted; use https"
        if userinfo:
            return "a URL must not hold a user name or password"
        if port is not None and not 0 < port < 65_536:
            return "the URL's port is not from 1 to 65535"
        return self._check_host(host)

    def _check_host(self, host: str) -> str | None:
        host = _plain(host)
        if not host:
            return "the URL has no host"
        literal = _literal(host)
        if literal is not None:
            return self.refusal(literal, host)
        if ":" in host or _is_number(host.rpartition(".")[2]):
            return "its host is neither a name nor an address in its usual form, such as 192.0.2.1 or [2001:db8::1]"
        try:
            name = host if host.isascii() else idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError:
            return "its host is not a name"
        # What a name becomes may be an address: full-width digits do.
        if name != host:
            return self._check_host(name)
        if len(name) > 253 or not all(_is_label(label) for label in name.split(".")):
            return "its host is not a name"
        if name in _LOOPBACK_NAMES or name.endswith(".localhost"):
            return None if self._allows(_LOOPBACK, name) else "its host is this machine"
        if "." not in name or name.endswith(tuple(f".{suffix}" for suffix in _PRIVATE_SUFFIXES)):
            return None if self._allows("private", name) else "its host is a name of a private network"
        return None


#: What holds wherever nothing else was said.
PUBLIC_ONLY: Final = AddressPolicy()


def policy_for(*base_urls: str) -> AddressPolicy:
    """What result URLs may be, given the base URLs of the providers, which the operator has chosen.

    Their own hosts are allowed wherever those are; http if one of them is http itself; this machine if one of them is
    on this machine, as the sandbox is.
    """
    parts = [urlsplit(base_url) for base_url in base_urls]
    hosts = {_plain(part.hostname or "") for part in parts} - {""}
    return AddressPolicy(
        allow_loopback=any(map(_is_this_machine, hosts)),
        allow_http=any(part.scheme == "http" for part in parts),
        allowed_hosts=frozenset(hosts),
    )


def check_url(url: str, policy: AddressPolicy = PUBLIC_ONLY) -> str | None:
    """Why this URL would be refused, as far as it shows without asking a name server; ``None`` if nothing is wrong.

    Never quotes the URL, whose query may be a secret.
    """
    if len(url) > MAX_URL_LENGTH:
        return f"the URL is longer than {MAX_URL_LENGTH} characters"
    if not url.isprintable() or " " in url or "\\" in url:
        # Programs do not agree on what these mean.
        return "the URL holds a space, a backslash or a control character"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "the URL is malformed"
    return policy.check(parts.scheme, parts.netloc.rpartition("@")[1], host, port)


def kind_of(address: IPAddress) -> str | None:
    """What is special about an address, in a word; ``None`` for one that is public."""
    if isinstance(address, IPv4Address):
        return _kind_of_4(address)
    if address.is_unspecified:
        return "unspecified"
    if address.is_loopback:
        return _LOOPBACK
    if address.is_multicast:
        return "multicast"
    if address.is_link_local or address.scope_id:
        return "link-local"
    embedded = _embedded(address)
    for inner in embedded:
        kind = _kind_of_4(inner)
        if kind is not None:
            return kind
    if address in _UNIQUE_LOCAL or address.is_site_local:
        return "private"
    if address.ipv4_mapped is not None or address in _TRANSLATED:
        return None
    if address in _LOCAL_TRANSLATED:
        return "private"
    # 2002::/16, which is not private by itself, says where it leads.
    reserved = address not in _UNICAST or address in _DOCUMENTATION or (address.is_private and not embedded)
    return "reserved" if reserved or address.teredo is not None else None


def _kind_of_4(address: IPv4Address) -> str | None:
    if address.is_unspecified:
        return "unspecified"
    if address.is_loopback:
        return _LOOPBACK
    if address.is_link_local:
        return "link-local"
    if address.is_multicast:
        return "multicast"
    if address in _SHARED:
        return "shared"
    if address.is_reserved or address in _RELAY:
        return "reserved"
    return "private" if address.is_private else None


def _embedded(address: IPv6Address) -> list[IPv4Address]:
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    number = int(address)
    if address in _TRANSLATED or address in _COMPATIBLE or (number >> 32 & 0xFFFF_FFFF) in _ISATAP:
        found.append(IPv4Address(number & 0xFFFF_FFFF))
    return [inner for inner in found if inner is not None]


def _is_this_machine(host: str) -> bool:
    literal = _literal(host)
    return host in _LOOPBACK_NAMES if literal is None else kind_of(literal) == _LOOPBACK


def _plain(host: str) -> str:
    return host.lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _literal(host: str) -> IPAddress | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_number(label: str) -> bool:
    # Resolvers take 2130706433, 0x7f.1 and 0177.0.0.1 for addresses.
    if label.isdecimal():
        return True
    return label.startswith("0x") and all(digit in "0123456789abcdef" for digit in label[2:])


def _is_label(label: str) -> bool:
    return 0 < len(label) <= 63 and all(sign.isascii() and (sign.isalnum() or sign in "-_") for sign in label)
