"""A camera of another host, whose agent has `serve` in its config."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from streamer.bus.host_keys import HostKeys
from streamer.capture.interfaces import Source
from streamer.core.landlock import Rules
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Name, Settings
from streamer.types import Pace

PORT = 5600
"""Default port of `serve`."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Remote(Settings):
    """A stream that another agent captures. Frames are asked for when they are needed, always encrypted."""

    kind: Literal["remote"] = "remote"
    url: Annotated[Url, require_scheme("streamer")]
    """`streamer://HOST:PORT/STREAM`; port 5600 if none is given."""
    peer: Name | None = None
    """Name of the other host in `streamer keys allow`. Default: HOST of the URL."""
    quality: Annotated[int, Field(ge=1, le=100)] | Literal["lossless"] = 90
    """Highest quality of the JPEG pictures on the wire, 1 to 100, or `lossless` (PNG, several times as large).
    A camera's own JPEG is passed on if it is no better."""

    pace: ClassVar[Pace] = "live"
    modules: ClassVar[tuple[str, ...]] = ("streamer.capture.sources._remote_source",)
    max_retry_s: ClassVar[float] = 0.5
    """Longest pause between two connections: another agent is not a camera that locks accounts or overloads."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        parts = urlsplit(self.url.reveal())
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("`url` has no user and no query: hosts know each other by keys, see `streamer keys`")
        if parts.port == 0:
            raise ValueError("`url` has the port 0, at which nobody can serve")
        if not _NAME.fullmatch(self.stream):
            raise ValueError("`url` must end with the name of a stream, such as streamer://boxa:5600/yard")
        if self.peer is None and not _NAME.fullmatch(self.host):
            raise ValueError(f"give `peer`, the name of {self.host} in `streamer keys allow`")
        return self

    @property
    def host(self) -> str:
        return urlsplit(self.url.reveal()).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url.reveal()).port or PORT

    @property
    def stream(self) -> str:
        """The name of the stream there."""
        return urlsplit(self.url.reveal()).path.strip("/")

    @property
    def peer_name(self) -> str:
        return self.peer or self.host

    def needs(self) -> Rules:
        """Return what a confined process needs to reach the other host."""
        keys = HostKeys()
        return Rules(read=[keys.secret_file, keys.peer_file(self.peer_name)], connect={self.port})

    def open(self, read_limit: float = 15.0) -> Source:
        from streamer.capture.sources._remote_source import RemoteSource

        return RemoteSource(self)
