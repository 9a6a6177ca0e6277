"""Where webhooks may be sent: public addresses over HTTPS, asked when an endpoint is saved and at every connection.

What a name means is looked up here and nowhere else: whoever connects is given the addresses that were looked at, so
that a name which means another machine a moment later (DNS rebinding) gains nothing.
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from billing.errors import BadRequest, Unavailable

LONGEST: Final = 2_000
_LOWEST_PORT: Final = 1_024
"""Below it only HTTPS's own port: what listens there speaks something else."""
_EMBEDDING: Final = tuple(
    ipaddress.ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
)
"""IPv6 networks whose addresses stand for an IPv4 one: NAT64, 6to4, Teredo and the compatible ones of old."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Target:
    """An address as it was written, in parts, and the machines that it means now."""

    https: bool
    host: str
    port: int
    path: str
    machines: tuple[str, ...]


def target(url: str, own_networks: Sequence[Network]) -> Target:
    """Look `url` up. Raises `BadRequest` for one that may not be called, `Unavailable` for a name that means nothing.

    Machines in `own_networks` may be called whatever they are, and without TLS: the operator has named them.
    """
    https, host, port, path = _parts(url)
    machines = _machines(host, port)
    ours = all(any(_within(machine, network) for network in own_networks) for machine in machines)
    if not ours:
        if not https:
            raise BadRequest("A webhook goes over HTTPS: write an address that begins with https://.")
        if port != 443 and port < _LOWEST_PORT:
            raise BadRequest(f"Port {port} is no web server's: use 443, or one above {_LOWEST_PORT - 1}.")
        if not all(_is_public(machine) for machine in machines):
            raise BadRequest(f"{host} is not on the public internet: name a server that everybody can reach.")
    return Target(https, host, port, path, tuple(str(machine) for machine in machines))


def _parts(url: str) -> tuple[bool, str, int, str]:
    if len(url) > LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise BadRequest(
            f"An address has at most {LONGEST:,} plain characters; write other letters of its host as xn--…."
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadRequest("This is no web address: write one like https://example.com/hooks.") from error
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise BadRequest("This is no web address: write one like https://example.com/hooks.")
    if "@" in parts.netloc:
        raise BadRequest("Leave name and password out of the address: the signature says who is calling.")
    if parts.fragment:
        raise BadRequest("Leave out what follows #: it is never sent.")
    https = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return https, host, port or (443 if https else 80), path


def _machines(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"The name {host[:100]} leads nowhere: check it, or try again later.") from error
    return sorted({_plain(str(where[0])) for *_, where in found}, key=lambda one: (one.version, int(one)))


def _plain(text: str) -> Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _within(machine: Address, network: Network) -> bool:
    return machine.version == network.version and machine in network


def _is_public(machine: Address) -> bool:
    embeds = any(_within(machine, network) for network in _EMBEDDING)
    return machine.is_global and not machine.is_multicast and not machine.is_reserved and not embeds
