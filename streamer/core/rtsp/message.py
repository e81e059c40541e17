"""RTSP messages (RFC 2326), and their separation from the media packets of the same TCP connection."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from streamer.core.errors import WireError

MAX_HEAD_BYTES = 64 << 10
"""Longest start line with headers."""
MAX_BODY_BYTES = 256 << 10
"""Longest body. An SDP of a camera has about 1 KiB."""
MAX_SKIPPED_BYTES = 64 << 10
"""Bytes between two media packets that are skipped: some cameras send a few wrong ones."""
RTCP_TYPES = range(192, 224)
"""Second bytes of RTCP packets. Those of RTP packets differ, because they do not use the payload types 64 to 95."""

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_START = re.compile(rb"RTSP/\d|[A-Z_]{3,20} \S")
_POSSIBLE_START = re.compile(rb"(?:R|RT|RTS|RTSP|RTSP/|[A-Z_]{1,20} ?)\Z")
_STATUS = re.compile(r"RTSP/\d\.\d +(\d{3})(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response."""

    start: str
    """Request line or status line."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def method(self) -> str:
        """Method of a request."""
        return self.start.partition(" ")[0]

    @property
    def uri(self) -> str:
        """URI of a request."""
        return self.start.split(" ")[1] if self.start.count(" ") else ""

    @property
    def is_response(self) -> bool:
        return self.start.startswith("RTSP/")

    @property
    def status(self) -> int:
        """Status of a response. Raises WireError if it is no number."""
        match = _STATUS.match(self.start)
        if match is None:
            raise WireError("answers with a status line that is not RTSP")
        return int(match[1])

    def values(self, name: str) -> list[str]:
        """Return the values of all headers with this name, in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def value(self, name: str) -> str:
        """Return the value of the first header with this name, empty without one."""
        return next(iter(self.values(name)), "")

    def with_header(self, name: str, value: str | None) -> Self:
        """Return a copy with this one header of that name, or with none."""
        others = tuple(header for header in self.headers if header[0].lower() != name.lower())
        return replace(self, headers=others if value is None else (*others, (name, value)))

    def encode(self) -> bytes:
        """Return the bytes to send."""
        message = self.with_header("Content-Length", str(len(self.body)) if self.body else None)
        lines = [message.start, *(f"{name}: {value}" for name, value in message.headers), "", ""]
        return "\r\n".join(lines).encode(errors="surrogateescape") + self.body


class Splitter:
    """Separates what is received on a connection into messages and media packets."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipped = 0
        self.skips_unknown = False
        """Skip a limited number of bytes that are neither message nor packet. False: they are an error."""

    def feed(self, data: bytes) -> Iterator[bytes | Message]:
        """Yield messages, and complete media packets as they were received, several at once. Raises WireError."""
        data = self._rest + data
        size = len(data)
        run = at = 0
        """The packets of data[run:at] were not yielded yet."""
        while at < size:
            if data[at] == 0x24:  # "$", channel, length
                end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
                if size < at + 4 or size < end:
                    break
                at = end
                continue
            if run < at:
                self._skipped = 0
                yield data[run:at]
            run = at
            if (end := self._end_of_message(data, at)) > size:
                break
            if end == at:
                run = at = self._skip(data, at)
                continue
            self._skipped = 0
            message = _parse(data[at:end])
            run = at = end
            if message is not None:
                yield message
        if run < at:
            self._skipped = 0
            yield data[run:at]
        self._rest = data[at:]

    def _end_of_message(self, data: bytes, at: int) -> int:
        """Return the end of the message at `at`, more than `len(data)` if it is incomplete, `at` if there is none."""
        if data[at] in b"\r\n":
            return at + 1
        if not _START.match(data, at):
            return len(data) + 1 if _POSSIBLE_START.match(data, at) else at
        head = _END_OF_HEAD.search(data, at, at + MAX_HEAD_BYTES)
        if head is None:
            if len(data) - at >= MAX_HEAD_BYTES:
                raise WireError(f"sends a header of more than {MAX_HEAD_BYTES >> 10} KiB")
            return len(data) + 1
        lengths = re.findall(rb"(?im)^content-length[ \t]*:[ \t]*([^\r\n]*)", data[at : head.end()])
        if not lengths:
            return head.end()
        if not re.fullmatch(rb"\d{1,10}[ \t]*", lengths[0]):
            raise WireError("sends a body whose length is not a number")
        if (length := int(lengths[0])) > MAX_BODY_BYTES:
            raise WireError(f"sends a body of more than {MAX_BODY_BYTES >> 10} KiB")
        return head.end() + length

    def _skip(self, data: bytes, at: int) -> int:
        """Return the position after some bytes that cannot be read."""
        if not self.skips_unknown:
            raise WireError(_unknown(data[at : at + 8]))
        found = [position for mark in (b"$", b"RTSP/") if (position := data.find(mark, at + 1)) > 0]
        end = min(found, default=len(data))
        self._skipped += end - at
        if self._skipped > MAX_SKIPPED_BYTES:
            raise WireError("sends data that is not RTSP")
        return end


def _unknown(data: bytes) -> str:
    if data.startswith(b"HTTP/"):
        return "speaks HTTP, not RTSP: use an http:// URL, or the port of RTSP, usually 554"
    if re.match(rb"[\x14-\x16]\x03[\x00-\x04]", data):
        return "speaks TLS on this port: use an rtsps:// URL"
    return "answers with something other than RTSP"


def _parse(data: bytes) -> Message | None:
    """Return the message of complete bytes, None for an empty line."""
    end = _END_OF_HEAD.search(data)
    if end is None:
        return None
    lines = data[: end.start()].decode(errors="surrogateescape").replace("\r\n", "\n").split("\n")
    headers: list[tuple[str, str]] = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t") and headers:
            headers[-1] = (headers[-1][0], f"{headers[-1][1]} {line.strip()}")
        elif colon:
            headers.append((name.strip(), value.strip()))
    return Message(lines[0], tuple(headers), data[end.end() :])
