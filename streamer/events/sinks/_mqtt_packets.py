"""MQTT 5 packets, as far as a publisher needs them: encoders for its own, and a decoder that trusts no broker.

The specification is https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from streamer.core.errors import WireError

PINGREQ = b"\xc0\x00"
DISCONNECT_WITH_WILL = b"\xe0\x01\x04"
FAILURE = 0x80
"""Reason codes from here on report a failure."""
SESSION_TAKEN_OVER = 0x8E
_MAX_BINARY = 0xFFFF
_CLEAN_START, _WILL, _RETAIN_WILL, _PASSWORD, _USER = 0x02, 0x04 | 1 << 3, 0x20, 0x40, 0x80
_CONTENT_TYPE, _SERVER_KEEP_ALIVE, _RECEIVE_MAXIMUM, _MAXIMUM_QOS, _MAXIMUM_PACKET_SIZE = 0x03, 0x13, 0x21, 0x24, 0x27
_FIRST_BYTES = {0x20, *range(0x30, 0x40), 0x40, 0x90, 0xD0, 0xE0}
"""First bytes of the packets that a broker may send to a publisher."""
_REPEATABLE = {0x0B, 0x26}
_PROPERTIES = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), "byte"),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), "short"),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), "long"),
    **dict.fromkeys((0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F), "text"),
    **dict.fromkeys((0x09, 0x16), "binary"),
    0x0B: "varint",
    0x26: "pair",
}
"""Type of each property by its identifier."""
_REASONS = {
    0x01: "unsupported protocol version",  # this and the next four: a broker that speaks MQTT 3 only
    0x02: "client identifier not valid",
    0x03: "server unavailable",
    0x04: "bad user name or password",
    0x05: "not authorized",
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter not valid",
    0x90: "topic name not valid",
    0x91: "packet identifier in use",
    0x93: "receive maximum exceeded",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "payload format not valid",
    0x9A: "retained messages are not supported",
    0x9B: "quality of service 1 is not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9F: "connection rate exceeded",
}


class Message(NamedTuple):
    """An application message."""

    topic: str
    body: bytes
    retain: bool = False


class Connack(NamedTuple):
    reason: int
    window: int
    """Maximum number of unacknowledged messages that the broker accepts."""
    max_bytes: int
    """Size of the largest packet that the broker accepts."""
    keepalive_s: int
    """Interval without a packet after which the broker ends the connection; 0 if it has none of its own."""


class Puback(NamedTuple):
    message_id: int
    reason: int


class Suback(NamedTuple):
    reason: int


class Disconnect(NamedTuple):
    reason: int


class Pingresp(NamedTuple):
    pass


Packet = Connack | Puback | Suback | Disconnect | Pingresp | Message


def describe(reason: int) -> str:
    """Return a reason code in words of this program."""
    return _REASONS.get(reason, f"reason code {reason:#04x}")


def connect(
    client_id: str, keepalive_s: int, will: Message, user: str | None, password: str | None, max_bytes: int
) -> bytes:
    """Return a CONNECT with a retained will. `max_bytes`: size of the largest packet that the broker may send."""
    flags = _CLEAN_START | _WILL | _RETAIN_WILL
    payload = _text(client_id) + b"\0" + _text(will.topic) + _binary(will.body)
    if user is not None:
        flags, payload = flags | _USER, payload + _text(user)
    if password is not None:
        flags, payload = flags | _PASSWORD, payload + _text(password)
    properties = struct.pack("!BI", _MAXIMUM_PACKET_SIZE, max_bytes)
    header = _text("MQTT") + struct.pack("!BBH", 5, flags, keepalive_s) + _varint(len(properties)) + properties
    return _packet(0x10, header + payload)


def publish(message_id: int, message: Message, content_type: str) -> bytes:
    """Return a PUBLISH with quality of service 1."""
    properties = bytes([_CONTENT_TYPE]) + _text(content_type)
    header = _text(message.topic) + struct.pack("!H", message_id) + _varint(len(properties)) + properties
    return _packet(0x32 | message.retain, header + message.body)


def subscribe(message_id: int, topic_filter: str) -> bytes:
    """Return a SUBSCRIBE with quality of service 0."""
    return _packet(0x82, struct.pack("!H", message_id) + b"\0" + _text(topic_filter) + b"\0")


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    digits = bytearray()
    while True:
        number, digit = divmod(number, 128)
        digits.append(digit | 0x80 if number else digit)
        if not number:
            return bytes(digits)


def _binary(data: bytes) -> bytes:
    if len(data) > _MAX_BINARY:
        raise WireError(f"a text of {len(data)} bytes, at most {_MAX_BINARY} are possible")
    return struct.pack("!H", len(data)) + data


def _text(text: str) -> bytes:
    return _binary(text.encode())


class Decoder:
    """Splits the bytes of a broker into packets and decodes them. Raises WireError for anything that is not valid."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: size of the largest packet; a larger one is refused before it is read."""
        self._max_bytes = max_bytes
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the packets that are complete with `data`."""
        self._received += data
        while (split := self._split()) is not None:
            start, end = split
            first, body = self._received[0], bytes(self._received[start:end])
            del self._received[:end]
            yield _decode(first, body)

    def _split(self) -> tuple[int, int] | None:
        """Return start and end of the body of the first packet, or None while it is incomplete."""
        if self._received and self._received[0] not in _FIRST_BYTES:
            raise WireError(f"it sends an unexpected packet of type {self._received[0] >> 4}, or does not speak MQTT")
        size = 0
        for place, byte in enumerate(self._received[1:5]):
            size |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if size > self._max_bytes:
                    raise WireError(f"it sends a packet of {size} bytes, at most {self._max_bytes} are accepted")
                end = 2 + place + size
                return (2 + place, end) if len(self._received) >= end else None
        if len(self._received) >= 5:
            raise WireError("it sends a packet without a valid length: it does not speak MQTT")
        return None


def _decode(first: int, body: bytes) -> Packet:
    reader = _Reader(body)
    try:
        match first & 0xF0:
            case 0x20:
                return _connack(reader)
            case 0x30:
                return _publish(first, reader)
            case 0x40:
                return Puback(reader.short(), reader.byte() if reader.left else 0)
            case 0x90:
                reader.short()
                reader.properties()
                return Suback(reader.byte())
            case 0xE0:
                return Disconnect(reader.byte() if reader.left else 0)
            case _:
                return Pingresp()
    except (struct.error, IndexError, UnicodeDecodeError):
        raise WireError(f"it sends a malformed packet of type {first >> 4}") from None


def _connack(reader: _Reader) -> Connack:
    reader.byte()  # flags: there is no session to resume
    reason = reader.byte()
    properties = reader.properties() if reader.left else {}
    window, max_bytes = properties.get(_RECEIVE_MAXIMUM, 0xFFFF), properties.get(_MAXIMUM_PACKET_SIZE, 1 << 28)
    if not window or not max_bytes:
        raise WireError("it accepts no message at all (Receive Maximum or Maximum Packet Size of 0)")
    if reason < FAILURE and properties.get(_MAXIMUM_QOS) == 0:
        raise WireError("it supports no messages with quality of service 1")
    return Connack(reason, window, max_bytes, properties.get(_SERVER_KEEP_ALIVE, 0))


def _publish(first: int, reader: _Reader) -> Message:
    if first & 0x06:
        raise WireError("it sends a message with a quality of service that was not requested")
    topic = reader.text()
    reader.properties()
    return Message(topic, reader.rest(), bool(first & 0x01))


class _Reader:
    """Reads the fields of one packet. Raises struct.error or IndexError beyond its end."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def byte(self) -> int:
        return self._number("!B")

    def short(self) -> int:
        return self._number("!H")

    def long(self) -> int:
        return self._number("!I")

    def varint(self) -> int:
        number = 0
        for place in range(4):
            byte = self.byte()
            number |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return number
        raise IndexError

    def binary(self) -> bytes:
        return self._take(self.short())

    def text(self) -> str:
        return self.binary().decode()

    def pair(self) -> tuple[str, str]:
        return self.text(), self.text()

    def rest(self) -> bytes:
        return self._take(self.left)

    def properties(self) -> dict[int, Any]:
        """Return values by identifier. Raises WireError for a repeated or an unknown property."""
        size = self.varint()
        if size > self.left:
            raise IndexError
        end = self._at + size
        found: dict[int, Any] = {}
        while self._at < end:
            key = self.varint()
            if key not in _PROPERTIES or (key in found and key not in _REPEATABLE):
                raise WireError(f"it sends an unknown or repeated property {key:#04x}")
            found[key] = getattr(self, _PROPERTIES[key])()
        return found

    def _number(self, form: Literal["!B", "!H", "!I"]) -> int:
        (number,) = struct.unpack_from(form, self._body, self._at)
        self._at += struct.calcsize(form)
        return int(number)

    def _take(self, size: int) -> bytes:
        if size > self.left:
            raise IndexError
        taken = self._body[self._at : self._at + size]
        self._at += size
        return taken
