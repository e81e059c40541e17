"""Publishes events to a stream of NATS JetStream; after a lost connection it repeats the unacknowledged ones.

The subject of an event is `<subject>.<agent>.streams.<stream>.<subject of the event>`, like the topics of MQTT. The
header `Nats-Msg-Id` is the id of the event, so the stream leaves out a repeated event within its duplicate window.
The message is a CloudEvent in structured mode: the event as JSON, with the header `content-type`.
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


def _reject_path(url: Url) -> Url:
    if urlsplit(url.reveal()).path.strip("/"):
        raise ValueError("must end after the port: the key `subject` sets what subjects begin with")
    return url


_SUBJECT = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"


class Nats(ServerSinkSettings):
    """Events to NATS JetStream, each acknowledged by the stream that stores it."""

    kind: Literal["nats"] = "nats"
    name: Name = "nats"
    url: Annotated[Url, require_scheme("nats", "tls"), AfterValidator(_reject_path)]
    """`nats://` or, with TLS, `tls://`, with user and password, or with a token as the user; they are always hidden."""
    credentials: Path | None = None
    """File with the JWT and seed of a user, as `nsc` writes it (`.creds`), or with the NKey seed of a user alone."""
    subject: Annotated[str, Field(pattern=_SUBJECT, examples=["streamer.home"])] = "streamer"
    """Beginning of every subject."""
    stream: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$", examples=["STREAMER"])] | None = None
    """Stream that must store the events. Default: whichever has their subjects."""
    create: bool = False
    """Create the stream if it does not exist: files, seven days, subjects `<subject>.>`. Default: false."""
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 20
    """Maximum number of unacknowledged events; so many may repeat after a lost connection."""
    timeout: Seconds = 10.0
    """Maximum wait for one acknowledgement."""

    @model_validator(mode="after")
    def _keys_are_used(self) -> Self:
        self.reject_unused_tls("tls")
        if self.create and self.stream is None:
            raise ValueError("`create` needs the name of the stream: give `stream` too")
        if self.credentials is not None and urlsplit(self.url.reveal()).username is not None:
            raise ValueError("give either a user in `url` or `credentials`, not both")
        return self

    @property
    def files(self) -> list[Path]:
        return [*super().files, *([] if self.credentials is None else [self.credentials])]

    def check(self) -> None:
        require_package("nats", "nats")
        if self.url.scheme == "tls":
            self.tls_context()
        self.has_jwt()

    def has_jwt(self) -> bool:
        """Return whether `credentials` holds a JWT and a seed, not a seed alone. Raises ConfigError if neither."""
        if self.credentials is None:
            return False
        require_package("nats", "nkeys")
        try:
            text = self.credentials.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read `credentials` {self.credentials}: {error.strerror}") from None
        if b"BEGIN NATS USER JWT" in text and b"BEGIN USER NKEY SEED" in text:
            return True
        if not text.strip().startswith(b"SU"):
            raise ConfigError(
                f"`credentials` {self.credentials} holds neither JWT and seed of a user, as `nsc` writes them, "
                "nor a seed that begins with SU"
            )
        return False

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        self.check()
        from streamer.events.sinks._nats_connection import nats_sink

        return nats_sink(self, context, progress)
