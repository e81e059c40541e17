"""Kinds of addresses in all their forms, and which of them a host may lead to."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from streamer.core.addresses import classify, connect, resolve
from streamer.core.errors import AddressError

KINDS = {
    "public": ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
    "private": [
        "10.0.0.1", "172.16.0.1", "192.168.1.10", "100.64.0.1", "198.18.0.1", "fd12::1",
        "::ffff:192.168.1.10", "64:ff9b::c0a8:10a", "::192.168.1.10",
    ],
    "loopback": [
        "127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::1", "2001:0:808:808::80ff:fffe", "2001:0:7f00:1::",
    ],
    "link-local": [
        "169.254.1.1", "fe80::1", "fe80::1%1", "::ffff:169.254.1.1", "64:ff9b::a9fe:101", "2002:a9fe:101::1",
    ],
    "metadata": [
        "169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "169.254.170.2",
        "::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
        "2001:0:808:808::5601:5601",
    ],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "::ffff:224.0.0.1"],
    "unspecified": ["0.0.0.0", "0.0.0.1", "::", "::ffff:0.0.0.0"],
    "reserved": ["240.0.0.1", "255.255.255.255", "4000::1"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in KINDS.items() for text in texts])
def test_every_form_of_an_address_has_its_kind(kind: str, text: str) -> None:
    assert classify(ip_address(text)) == kind


@pytest.mark.parametrize("kind", ["loopback", "link-local", "metadata"])
def test_only_the_config_may_name_special_addresses(kind: str) -> None:
    for text in KINDS[kind]:
        assert resolve(text, in_config=True) == (ip_address(text),)
        with pytest.raises(AddressError, match=r"^another host: .*the config must name such an address itself$"):
            resolve(text, in_config=False)


@pytest.mark.parametrize("kind", ["public", "private"])
def test_public_and_private_addresses_are_used(kind: str) -> None:
    for text in KINDS[kind]:
        assert resolve(text, in_config=False) == (ip_address(text),)


@pytest.mark.parametrize("kind", ["multicast", "unspecified", "reserved"])
def test_address_of_no_single_host_is_refused(kind: str) -> None:
    for text in KINDS[kind]:
        with pytest.raises(AddressError, match=rf"is not the address of one host \({kind}\)"):
            resolve(text, in_config=True)


@pytest.mark.parametrize(
    "text", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "0x7f000001", "127.0.1", "017700000001", "0300.0250.1.1"]
)
def test_unusual_spelling_of_an_address_is_refused(text: str) -> None:
    for in_config in (True, False):
        with pytest.raises(AddressError, match=r"an unusual spelling of the address [\d.]+: write "):
            resolve(text, in_config=in_config)


def test_localhost_is_a_name_of_the_own_computer() -> None:
    for name in ("localhost", "LOCALHOST"):
        assert {classify(address) for address in resolve(name, in_config=True)} == {"loopback"}
    with pytest.raises(AddressError, match="the config must name such an address itself"):
        resolve("localhost", in_config=False)


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the addresses of the name `camera.test`."""

    def answer(*addresses: str) -> None:
        def getaddrinfo(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
            assert host == "camera.test"
            return [(0, 0, 0, "", (address, 0)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return answer


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.169.254", "fe80::1%1", "64:ff9b::7f00:1"])
def test_name_with_special_address_is_refused(dns: Callable[..., None], address: str) -> None:
    dns("192.168.1.10")
    assert resolve("camera.test", in_config=True) == (ip_address("192.168.1.10"),)
    dns(address)  # DNS changes its mind
    with pytest.raises(AddressError, match=r"^camera\.test: refused to connect to "):
        resolve("camera.test", in_config=True)


def test_special_addresses_of_a_name_are_left_out(dns: Callable[..., None]) -> None:
    dns("fe80::1%1", "127.0.0.1", "192.168.1.10", "8.8.8.8", "192.168.1.10")
    assert [str(address) for address in resolve("camera.test", in_config=True)] == ["192.168.1.10", "8.8.8.8"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (socket.gaierror(socket.EAI_AGAIN, ""), "camera.test: host name lookup failed: no DNS server answers"),
        (socket.gaierror(socket.EAI_NONAME, ""), "camera.test: host name unknown: check its spelling"),
        (UnicodeError("label too long"), "camera.test: not a valid name of a host"),
    ],
)
def test_failure_of_dns_has_its_own_words(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(AddressError, match=message):
        resolve("camera.test", in_config=True)
    with pytest.raises(AddressError) as caught:
        resolve("camera.test", in_config=False)
    assert "camera.test" not in str(caught.value), "another computer chose this text"


def test_name_that_is_no_name_is_refused() -> None:
    for host in ("x" * 64 + ".test", "a..b", "no.such.host.invalid"):
        with pytest.raises(AddressError):
            resolve(host, in_config=True)


def test_connect_tries_each_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        addresses = ip_address("127.0.0.2"), ip_address("127.0.0.1")  # the first one refuses
        connect(addresses, port, 5).close()
    with pytest.raises(ConnectionRefusedError):
        connect(addresses, port, 5)
