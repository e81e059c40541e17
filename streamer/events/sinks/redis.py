"""Appends events to a stream of Redis, several in one transaction; after a lost connection it repeats the last one.

An entry has the fields `id` and `source`, by which a repeated event is recognised, and `event`, the event as JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from streamer.core.errors import ConfigError
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Name, Seconds
from streamer.events.sinks._base import ServerSinkSettings, SinkContext, SinkProgress
from streamer.events.sinks._connected import require_package
from streamer.types import Sink


def _check_database(url: Url) -> Url:
    parts = urlsplit(url.reveal())
    database = parts.path.strip("/")
    if parts.query or (database and not (database.isdecimal() and len(database) < 6)):
        raise ValueError("must end after the port, or with `/` and the number of a database")
    return url


class Redis(ServerSinkSettings):
    """Events to a stream of Redis (XADD)."""

    kind: Literal["redis"] = "redis"
    name: Name = "redis"
    url: Annotated[Url, require_scheme("redis", "rediss"), AfterValidator(_check_database)]
    """`redis://` or, with TLS, `rediss://`, with user, password and number of the database; the password is hidden."""
    socket: Path | None = None
    """Unix socket of the server, to be used in place of host and port of `url`."""
    stream: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,200}$", examples=["streamer:home"])] = "streamer"
    """Key of the stream."""
    max_entries: Annotated[int, Field(ge=1)] | None = None
    """Approximate number of entries to keep (`MAXLEN ~`). Default: all, so limit them in another way."""
    skip_repeated: bool = False
    """Leave out repeated events: a script keeps the last 1000 ids in the key `<stream>:<agent>:<sink>`."""
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 20
    """Maximum number of events in one transaction; so many may repeat after a lost connection."""
    timeout: Seconds = 10.0
    """Maximum wait for one answer."""

    @model_validator(mode="after")
    def _keys_are_used(self) -> Self:
        self.reject_unused_tls("rediss")
        if self.socket is not None and self.url.scheme == "rediss":
            raise ValueError("`socket` has no TLS: use redis://")
        return self

    def check(self) -> None:
        require_package("redis", "redis")
        if self.url.scheme == "rediss":
            self.tls_context()
        if self.socket is not None and self.socket.exists() and not self.socket.is_socket():
            raise ConfigError(f"`socket` {self.socket} is not a socket")

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        self.check()
        from streamer.events.sinks._redis_connection import redis_sink

        return redis_sink(self, context, progress)
