"""MQTT packets: bytes from a broker are decoded, or refused with a WireError."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.errors import WireError
from streamer.events.sinks._mqtt_packets import (
    Connack,
    Decoder,
    Disconnect,
    Message,
    Packet,
    Pingresp,
    Puback,
    Suback,
    connect,
    publish,
)

VALID: list[tuple[bytes, Packet]] = [
    (b"\x20\x03\x00\x00\x00", Connack(0, 0xFFFF, 1 << 28, 0)),
    (b"\x20\x09\x00\x00\x06\x22\x00\x0a\x21\x00\x14", Connack(0, 20, 1 << 28, 0)),
    (b"\x20\x0b\x00\x00\x08\x27\x00\x00\x10\x00\x13\x00\x05", Connack(0, 0xFFFF, 4096, 5)),
    (b"\x20\x02\x00\x05", Connack(5, 0xFFFF, 1 << 28, 0)),
    (b"\x40\x02\x00\x07", Puback(7, 0)),
    (b"\x40\x03\x00\x07\x87", Puback(7, 0x87)),
    (b"\x90\x04\x00\x01\x00\x87", Suback(0x87)),
    (b"\xd0\x00", Pingresp()),
    (b"\xe0\x00", Disconnect(0)),
    (b"\xe0\x01\x8e", Disconnect(0x8E)),
    (b"\x31\x07\x00\x03a/b\x00x", Message("a/b", b"x", True)),
    (b"\x30\x0c\x00\x01a\x07\x26\x00\x01k\x00\x01vx", Message("a", b"x", False)),
]


def decoded(data: bytes, size: int = 1) -> list[Packet]:
    decoder = Decoder(1000)
    return [packet for start in range(0, len(data), size) for packet in decoder.feed(data[start : start + size])]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_packets_are_decoded_in_any_pieces(size: int) -> None:
    assert decoded(b"".join(data for data, _ in VALID), size) == [packet for _, packet in VALID]


@given(
    st.sampled_from([data for data, _ in VALID]),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 255)), max_size=4),
    st.binary(max_size=30),
    st.integers(1, 8),
)
def test_any_bytes_give_packets_or_a_wire_error(
    data: bytes, changes: list[tuple[int, int]], rest: bytes, size: int
) -> None:
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    with contextlib.suppress(WireError):
        assert all(isinstance(one, tuple) for one in decoded(bytes(changed) + rest, size))


def test_packet_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(WireError, match="a packet of 1001 bytes, at most 1000"):
        decoded(b"\x30\xe9\x07")


def test_texts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WireError, match="at most 65535"):
        connect("x" * 70_000, 30, Message("a", b""), None, None, 1000)


def test_sizes_are_encoded_as_the_specification_says() -> None:
    for size, length in [(100, b"\x79"), (200, b"\xdd\x01"), (20_000, b"\xb5\x9c\x01")]:
        packet = publish(1, Message("a/b", b"x" * size), "text/plain")
        assert packet[:1] == b"\x32"
        assert packet[1 : 1 + len(length)] == length
        assert len(packet) == 1 + len(length) + size + 21
