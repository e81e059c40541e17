"""Messages and media packets of one connection are told apart, with limits."""

from __future__ import annotations

import random

import pytest

from streamer.core.errors import WireError
from streamer.core.rtsp.message import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_SKIPPED_BYTES, Message, Splitter

RESPONSE = b"RTSP/1.0 200 OK\r\nCSeq: 4\r\nContent-Length: 5\r\n\r\nhello"
REQUEST = b"OPTIONS * RTSP/1.0\nCSeq: 7\n\n"
PACKETS = b"$\x00\x00\x04abcd" + b"$\x01\x00\x00" + b"$\x00\x01\x00" + bytes(256)


def split(data: bytes, size: int, *, skip: bool = False) -> tuple[bytes, list[Message]]:
    """Return all packets and all messages of `data`, received in parts of `size` bytes."""
    splitter = Splitter()
    splitter.skips_unknown = skip
    packets, messages = b"", []
    for at in range(0, len(data), size):
        for item in splitter.feed(data[at : at + size]):
            if isinstance(item, bytes):
                packets += item
            else:
                messages.append(item)
    return packets, messages


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_parts_of_any_size_give_the_same_items(size: int) -> None:
    packets, messages = split(PACKETS + RESPONSE + PACKETS + b"\r\n" + REQUEST + PACKETS, size)
    assert packets == PACKETS * 3
    response, request = messages
    assert (response.status, response.value("cseq"), response.body) == (200, "4", b"hello")
    assert (request.method, request.uri, request.value("CSeq")) == ("OPTIONS", "*", "7")


def test_headers_are_found_in_any_case_and_folded() -> None:
    ((_, (message,)),) = [split(b"RTSP/1.0 401 x\r\nWWW-Authenticate: a\r\n b\r\nwww-authenticate:c\r\nodd\r\n\r\n", 9)]
    assert message.values("WWW-Authenticate") == ["a b", "c"]


def test_encoded_message_has_the_length_of_its_body() -> None:
    message = Message("RTSP/1.0 200 OK", (("content-length", "999"), ("X", "\udcff")), b"abc")
    assert message.encode() == b"RTSP/1.0 200 OK\r\nX: \xff\r\nContent-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"RTSP/1.0 200 OK\r\n" + b"Session: 11111111\r\n" * 10_000, "header of more than 64 KiB"),
        (b"RTSP/1.0 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES, "header of more than 64 KiB"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: 2000000000\r\n\r\n", "body of more than 256 KiB"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), "body of more than 256 KiB"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n", "length is not a number"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n", "length is not a number"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP, not RTSP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "speaks TLS on this port: use an rtsps:// URL"),
        (b"220 mail.example\r\n", "something other than RTSP"),
    ],
)
def test_wrong_data_is_refused_in_words(data: bytes, reason: str) -> None:
    for size in (1000, len(data)):
        with pytest.raises(WireError, match=reason):
            split(data, size)


def test_status_that_is_no_number_is_refused() -> None:
    with pytest.raises(WireError, match="status line"):
        _ = Message("RTSP/1.0 abc").status


def test_bytes_between_packets_are_skipped() -> None:
    assert split(PACKETS + b"junk" + PACKETS + b"\xff" * 99 + RESPONSE, 50, skip=True)[0] == PACKETS * 2


def test_endless_bytes_between_packets_are_refused() -> None:
    with pytest.raises(WireError, match="data that is not RTSP"):
        split(b"\xff" * (MAX_SKIPPED_BYTES + 1), 1000, skip=True)


def test_random_bytes_only_raise_wire_error() -> None:
    generator = random.Random(7)
    for _ in range(2000):
        start = generator.choice([b"", b"RTSP/1.0 200 OK\r\n", b"$\x00", b"DESCRIBE x", b"RTSP/1.0 \xff\r\n\r\n"])
        try:
            _, messages = split(start + generator.randbytes(generator.randrange(200)) + b"\r\n\r\n", 40, skip=True)
            for message in messages:
                message.encode()
                _ = message.status if message.is_response else message.uri
        except WireError:
            pass
