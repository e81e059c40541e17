"""The first requests of an RTSP session, until the server's description of its media is known and acceptable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from streamer.core.deadline import Deadline
from streamer.core.errors import SourceLost
from streamer.core.rtsp.client import RtspClient, Server, parse_url
from streamer.core.rtsp.message import Message
from streamer.core.tls import Tls

MAX_REDIRECTS = 3
MAX_MEDIA = 16
"""Media (`m=` lines) in a description. A camera has up to four: video, sound, metadata and a back channel."""


class Session(NamedTuple):
    """A connection whose server has described its media."""

    client: RtspClient
    server: Server
    """The last one after redirects."""
    responses: Mapping[str, Message]
    """Responses to the requests that were sent, by method."""


def open_session(url: str, tls: Tls, seconds: float, *, describe: bool = True) -> Session:
    """Connect, request the options and the description, all within `seconds`. Raises SourceLost.

    `describe`: False for a receiver of media, which are described to it. Redirects are followed on the host of the URL
    only: another one would get the user and password.
    """
    server, login = parse_url(url)
    deadline = Deadline(seconds)
    for _ in range(MAX_REDIRECTS + 1):
        client = RtspClient(server, login, tls, deadline)
        try:
            answer = options = client.request("OPTIONS", server.uri)
            if (
                describe and options.status != 401 and not is_redirect(options)
            ):  # other errors: some cameras know no OPTIONS
                try:
                    answer = client.request("DESCRIBE", server.uri, ("Accept", "application/sdp"))
                except SourceLost as lost:
                    raise client.failure(options) or lost from None
            if not is_redirect(answer):
                if (failure := client.failure(answer)) is not None:
                    raise failure
                if not describe:
                    return Session(client, server, {"OPTIONS": options})
                check_media(answer.body)
                if client.failure(options) is not None:
                    options = Message("RTSP/1.0 200 OK", (("Public", "DESCRIBE, SETUP, PLAY, TEARDOWN"),))
                return Session(client, server, {"OPTIONS": options, "DESCRIBE": answer})
        except BaseException:
            client.close()
            raise
        client.close()
        server = redirected(server, answer.value("Location"))
    raise SourceLost(f"redirects more than {MAX_REDIRECTS} times")


def is_redirect(response: Message) -> bool:
    return 300 <= response.status < 400


def redirected(server: Server, location: str) -> Server:
    """Return the server that a redirect names. Raises SourceLost if it is on another host or less protected."""
    try:
        parts = urlsplit(location)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise SourceLost("redirects to an address that is not valid") from None
    if parts.scheme not in ("rtsp", "rtsps") or re.search(r"[^\x21-\x7e]", location):
        raise SourceLost("redirects to an address that is not RTSP")
    if host != server.host:
        raise SourceLost("redirects to another host, which is not allowed: configure the URL of that host")
    if server.scheme == "rtsps" and parts.scheme == "rtsp":
        raise SourceLost("redirects from rtsps:// to rtsp://, without TLS, which is not allowed")
    return parse_url(location)[0]


def check_media(description: bytes) -> None:
    """Raise SourceLost unless an SDP has video and not too many media."""
    media = re.findall(rb"(?m)^[ \t\r]*m=([a-z]*)", description)
    if len(media) > MAX_MEDIA:
        raise SourceLost(f"describes {len(media)} media: the limit is {MAX_MEDIA}")
    if b"video" not in media:
        raise SourceLost("has no video, only sound" if b"audio" in media else "has no video")
