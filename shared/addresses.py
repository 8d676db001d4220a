"""Where webhooks may go: the guard that keeps them out of our own network.

A URL is checked when it is given, so that its owner hears why; what counts is the address that is
connected to, checked each time. Addresses that hold another address inside are judged by both.
A refusal never says what a name resolves to: whoever may try URLs is not to map our network.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

from shared.errors import Rejected

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]

_SETTING = "DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS"
_LONGEST_URL = 2000
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")

# Where clouds give credentials to whoever asks. No setting opens these.
_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in (
        *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200"),
        *("168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fe80::a9fe:a9fe"),
        *("fd20:ce::254", "169.254.0.23", "169.254.42.42", "fd00:42::42"),
    )
)
# They hold an IPv4 address in their last 32 bits.
_TRANSLATED = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "::/96"))
# Not for the Internet, whatever the registry of this Python says: for protocols, documentation,
# segment routing, and translation as this network pleases.
_SPECIAL = tuple(
    ipaddress.ip_network(net)
    for net in ("192.0.0.0/24", "3fff::/20", "5f00::/16", "64:ff9b:1::/48", "fec0::/10")
)


class AddressRefused(Rejected):
    """A webhook may not go there; the message says why, and which setting would allow it."""

    code = "address_refused"


@dataclass(frozen=True)
class Target:
    """A URL taken apart once, so that nobody reads it in another way."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""


def parse_networks(text: str) -> Networks:
    """Comma-separated CIDRs. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def parse_url(url: str) -> Target:
    """Raises AddressRefused for what is not a plain http or https URL."""
    if len(url) > _LONGEST_URL:
        raise AddressRefused(f"The URL may have at most {_LONGEST_URL} characters.", field="url")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise AddressRefused(
            "The URL may have printable ASCII characters only, no spaces and no backslashes; "
            "write other names in their xn-- form.",
            field="url",
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressRefused(f"This is not a URL: {error}.", field="url") from error
    if parts.scheme not in {"http", "https"}:
        raise AddressRefused("The URL has to begin with https:// (or http://).", field="url")
    if "@" in parts.netloc:
        raise AddressRefused(
            "The URL may not hold a user name or password; the signature proves who we are.",
            field="url",
        )
    if parts.fragment:
        raise AddressRefused("The URL may not have a fragment (#…): it is never sent.", field="url")
    host = parts.hostname or ""
    if not _HOST.fullmatch(host):
        raise AddressRefused("The URL names no host that can be looked up.", field="url")
    if port == 0:
        raise AddressRefused("The URL names port 0, where nobody can listen.", field="url")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path)


def look_up(host: str, port: int) -> list[str]:
    """Addresses of a host, as connecting would find them; empty if it has none. Blocks."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check(scheme: str, host: str, addresses: list[str], allowed: Networks) -> list[str]:
    """The addresses of the host, if a webhook may go to each of them.

    Raises AddressRefused. Plain http is for networks that the operator has named.
    """
    if not addresses:
        raise _not_public(host)
    for text in addresses:
        address = ipaddress.ip_address(text.split("%")[0])
        is_named = any(address in network for network in allowed)
        for one in _with_inner(address):
            _check_one(host, one, is_named=is_named)
        if scheme == "http" and not is_named:
            raise AddressRefused(
                f"{host} is reached over http, which anyone on the way can read and "
                f"change. Use https, or have the operator put its network into {_SETTING}.",
                field="url",
            )
    return addresses


def _check_one(host: str, address: Address, *, is_named: bool) -> None:
    if address in _METADATA:
        raise AddressRefused(
            f"{host} is where a cloud keeps its credentials; no setting allows it.", field="url"
        )
    is_public = (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _SPECIAL)
    )
    if not is_public and not is_named:
        raise _not_public(host)


def _not_public(host: str) -> AddressRefused:
    """One sentence for a name that is unknown and one that leads inside, so that neither shows."""
    try:
        ipaddress.ip_address(host)
        problem = "is not a public address"
    except ValueError:
        problem = "leads nowhere, or to an address that is not public"
    return AddressRefused(
        f"{host} {problem}. If your MES lives there, have the operator put its network into "
        f"{_SETTING}, for instance {_SETTING}=10.20.0.0/16.",
        field="url",
    )


def _with_inner(address: Address) -> list[Address]:
    """The address and, where it carries an IPv4 address to another network, that one."""
    if isinstance(address, IPv4Address):
        return [address]
    inner: list[Address] = []
    if address.ipv4_mapped:
        # The kernel connects to that one itself.
        return [address.ipv4_mapped]
    if address.sixtofour:
        inner.append(address.sixtofour)
    if address.teredo:
        inner += address.teredo
    if any(address in network for network in _TRANSLATED) and int(address) > 1:
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [address, *inner]
