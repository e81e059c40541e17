"""Addresses of hosts: looked up once, judged by their kind, and connected to as found.

A camera or receiver may have any private or public address. Loopback, link-local and metadata addresses lead to
programs of this computer or of its cloud. They are used only when the config itself holds the address, or the name
`localhost`; never because a name resolves to one, and never because another computer refers to one (a redirect, a
playlist).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

from streamer.core.errors import AddressError
from streamer.core.network_failures import describe_os_error

Address = IPv4Address | IPv6Address
Kind = Literal["public", "private", "reserved", "multicast", "unspecified", "link-local", "loopback", "metadata"]

_SEVERITY: tuple[Kind, ...] = (
    "public", "private", "reserved", "multicast", "unspecified", "link-local", "loopback", "metadata",
)  # fmt: skip
"""From the most harmless kind on: an address that holds other addresses has the worst of their kinds."""
_OPEN: frozenset[Kind] = frozenset({"public", "private"})
_NAMED: frozenset[Kind] = frozenset({"public", "private", "link-local", "loopback", "metadata"})

_METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # most clouds
        "169.254.170.2",  # tasks on AWS
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google
    )
)
"""Services that give a cloud computer its own credentials."""
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_LOW_32_BITS = tuple(
    IPv6Network(text)
    for text in (
        "::ffff:0:0/96",  # IPv4-mapped
        "::/96",  # IPv4-compatible
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 of one network
    )
)
"""IPv6 networks whose addresses end with an IPv4 address."""
_6TO4, _TEREDO = IPv6Network("2002::/16"), IPv6Network("2001::/32")
_32_BITS = 0xFFFFFFFF


def classify(address: Address) -> Kind:
    """Return the kind of an address. IPv6 forms of an IPv4 address have the kind of that address."""
    if isinstance(address, IPv6Address):
        address = IPv6Address(int(address))  # without scope
        if embedded := tuple(_embedded(address)):
            return max((_kind(one) for one in embedded), key=_SEVERITY.index)
    return _kind(address)


def _embedded(address: IPv6Address) -> Iterator[IPv4Address]:
    number = int(address)
    if number <= 1:  # unspecified and loopback, which are in ::/96
        return
    if any(address in network for network in _LOW_32_BITS):
        yield IPv4Address(number & _32_BITS)
    elif address in _6TO4:
        yield IPv4Address(number >> 80 & _32_BITS)
    elif address in _TEREDO:
        yield IPv4Address(number >> 64 & _32_BITS)  # the relay
        yield IPv4Address(number & _32_BITS ^ _32_BITS)


def _kind(address: Address) -> Kind:
    if address in _METADATA:
        return "metadata"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    if address.is_unspecified or (isinstance(address, IPv4Address) and address in _THIS_NETWORK):
        return "unspecified"
    if address.is_multicast:
        return "multicast"
    if address.is_reserved:
        return "reserved"
    return "public" if address.is_global else "private"


def resolve(host: str, *, in_config: bool) -> tuple[Address, ...]:
    """Return the addresses of a host that may be used, the preferred one first. Raises AddressError.

    `host`: a name or an address, without brackets. `in_config`: the config holds this host, so that an address, or
    `localhost`, may also be loopback, link-local or metadata. The text of another host is not in any error. May block
    for as long as the system's resolver does.
    """
    shown = host if in_config else "another host"
    written = _written(host, shown)
    is_named = in_config and (written is not None or host.lower().rstrip(".") == "localhost")
    found = (written,) if written is not None else _look_up(host, shown)
    usable = tuple(address for address in found if classify(address) in (_NAMED if is_named else _OPEN))
    if not usable:
        raise AddressError(_refusal(shown, found[0], is_named))
    return usable


def _written(host: str, shown: str) -> Address | None:
    """Return the address that `host` is, None for a name. Raises AddressError for other spellings of an address."""
    text = host.replace("%25", "%", 1)  # before the scope of an IPv6 address in a URL
    try:
        return ip_address(text)
    except ValueError:
        pass
    try:
        address = IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None
    raise AddressError(f"{shown}: an unusual spelling of the address {address}: write {address}")


def _look_up(host: str, shown: str) -> tuple[Address, ...]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise AddressError(f"{shown}: {describe_os_error(error)}") from None
    except (OSError, ValueError):  # it cannot be written in DNS
        raise AddressError(f"{shown}: not a valid name of a host") from None
    return tuple(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))


def _refusal(shown: str, address: Address, is_named: bool) -> str:
    kind = classify(address)
    if is_named or kind not in _NAMED:
        return f"{shown}: {address} is not the address of one host ({kind})"
    return f"{shown}: refused to connect to {address} ({kind}): the config must name such an address itself"


def connect(addresses: Sequence[Address], port: int, timeout: float) -> socket.socket:
    """Return a TCP connection to the first address that accepts one. Raises OSError.

    `timeout`: seconds for all addresses together.
    """
    deadline = time.monotonic() + timeout
    failure = OSError("no address")
    for number, address in enumerate(addresses):
        left = max(0.01, deadline - time.monotonic()) / (len(addresses) - number)
        try:
            return socket.create_connection((str(address), port), left)
        except OSError as error:
            failure = error
    raise failure
