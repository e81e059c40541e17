"""Settings of webhooks: events by HTTP POST, signed as in Standard Webhooks."""

from __future__ import annotations

import base64
import contextlib
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from streamer.core.redact import Url, remember, require_scheme
from streamer.core.settings import Name, Seconds
from streamer.events.sinks._base import NetworkSinkSettings, SinkContext, SinkProgress
from streamer.types import Sink

_OWN_HEADERS = frozenset(
    {
        "connection", "content-length", "content-type", "host", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade", "webhook-id", "webhook-signature", "webhook-timestamp",
    }
)  # fmt: skip
_LONG_PART, _LONG_PART_WITH_DIGIT = 16, 8
"""Characters from which a part of the URL's path counts as a secret: many services put their token there."""


def _remember_long_parts(url: Url) -> Url:
    parts = urlsplit(url.reveal())
    for part in parts.path.split("/"):
        if len(part) >= (_LONG_PART_WITH_DIGIT if re.search(r"\d", part) else _LONG_PART):
            remember(part)
    for item in parts.query.split("&"):
        remember(item.partition("=")[2])
    return url


def _secret(secret: SecretStr) -> SecretStr:
    remember(secret.get_secret_value())
    with contextlib.suppress(ValueError):
        if 24 <= len(base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)) <= 64:
            return secret
    raise ValueError("must be a Standard Webhooks secret: whsec_ and 24 to 64 bytes in base64")


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    lower: dict[str, SecretStr] = {}
    for name, secret in headers.items():
        value = secret.get_secret_value()
        for text in (value, *value.split()):
            if len(text) >= _LONG_PART_WITH_DIGIT:
                remember(text)
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
            raise ValueError(f"`{name!a}` is not the name of a header")
        if name.lower() in _OWN_HEADERS or name.lower() in lower:
            raise ValueError(f"the header `{name}` is set by streamer, or given twice")
        if not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", value):
            raise ValueError(
                f"the value of `{name}` holds a control character, an outer space or no ASCII, or is empty"
            )
        lower[name.lower()] = secret
    return lower


class Webhook(NetworkSinkSettings):
    """Events by HTTP POST, one per request."""

    kind: Literal["webhook"] = "webhook"
    name: Name = "webhook"
    url: Annotated[Url, require_scheme("http", "https"), AfterValidator(_remember_long_parts)]
    """`http://` or `https://`; passwords, query values and long parts of the path never appear in a log or event."""
    headers: Annotated[dict[str, SecretStr], AfterValidator(_headers)] = Field({})
    """Further headers, such as `Authorization: Bearer …`. Their values never appear in a log or event."""
    secret: Annotated[SecretStr, AfterValidator(_secret)] | None = None
    """Standard Webhooks secret, `whsec_…`, that signs every request. Without it there is no signature."""
    in_flight: Annotated[int, Field(ge=1, le=100)] = 4
    """Concurrent requests; with 1 the events arrive in order while none fails. After a failure so many may repeat."""
    timeout: Seconds = 15.0
    """Maximum duration of one request."""

    @model_validator(mode="after")
    def _keys_are_used(self) -> Self:
        self.reject_unused_tls("https")
        if "authorization" in self.headers and urlsplit(self.url.reveal()).username is not None:
            raise ValueError("give either a user in `url` or the header `Authorization`, not both")
        return self

    def check(self) -> None:
        if self.url.scheme == "https":
            self.tls_context()

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        from standardwebhooks import Webhook as Signer

        from streamer.events.sinks._http_client import HttpClient
        from streamer.events.sinks._webhook_delivery import WebhookSink

        self.check()
        client = HttpClient(self.url, self, self.proxy, self.in_flight, self.timeout)
        own = {name: value.get_secret_value() for name, value in self.headers.items()}
        headers = {"user-agent": "streamer", **own, "content-type": self.content_type}
        signer = None if self.secret is None else Signer(self.secret.get_secret_value())
        return WebhookSink(client, headers, signer, self.in_flight, progress)
