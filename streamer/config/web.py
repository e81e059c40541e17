"""Settings of the web page: address and access token."""

from __future__ import annotations

import ipaddress
from typing import Annotated, NamedTuple, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from streamer.core.redact import remember
from streamer.core.settings import Settings

MIN_TOKEN = 16


class Bind(NamedTuple):
    """An address of this computer."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse(value: object) -> Bind:
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError("must be an address and a port such as 127.0.0.1:8080")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return Bind(str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)), int(port))
    except ValueError:
        raise ValueError("must begin with an IP address of this computer (0.0.0.0 for all) or localhost") from None


class Web(Settings):
    """The web page: live pictures, results, events, metrics."""

    bind: Annotated[Bind, BeforeValidator(_parse, json_schema_input_type=str)] = Field(
        default_factory=lambda: Bind("127.0.0.1", 8080)
    )
    """Address and port, by default 127.0.0.1:8080. Port 0: any free port, shown in the log."""
    token: SecretStr | None = None
    """Access token. Required if other computers can reach the address."""

    @field_validator("token")
    @classmethod
    def _long_enough(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            remember(token.get_secret_value())
            if len(token.get_secret_value()) < MIN_TOKEN:
                raise ValueError(f"must have at least {MIN_TOKEN} characters")
        return token

    @model_validator(mode="after")
    def _closed(self) -> Self:
        if self.token is None and not self.bind.is_loopback:
            raise ValueError(
                f"others can reach {self.bind}, so a `token` is needed, for example token: ${{STREAMER_TOKEN}}"
            )
        return self
