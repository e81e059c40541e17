"""Settings of the web page: address, access token, reverse proxy."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from streamer.config.bind import Bind, parse_bind
from streamer.core.redact import remember
from streamer.core.settings import Name, Settings

MIN_TOKEN, MIN_DIFFERENT = 16, 6
"""Least characters of a token, and least different ones: a random token of 16 hexadecimal digits has about ten."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _parse_network(value: object) -> Network:
    try:
        network = ipaddress.ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        raise ValueError("must be the IP address or network of a proxy, such as 127.0.0.1 or 172.18.0.0/16") from None
    if network.prefixlen == 0:
        raise ValueError("would trust every computer: name the address or network of the proxy")
    return network


def _parse_base_path(value: object) -> str:
    path = value.strip("/") if isinstance(value, str) else ""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", path):
        raise ValueError("must be a path such as /cams: letters, digits, `-`, `_`, `.` and `/`")
    return f"/{path}"


def _hard_to_guess(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    remember(text)
    if not re.fullmatch(r"[!-~]*", text):
        raise ValueError("must have letters, digits and punctuation of ASCII only, no spaces or line ends")
    if len(text) < MIN_TOKEN:
        raise ValueError(f"must have at least {MIN_TOKEN} characters")
    if len(set(text)) < MIN_DIFFERENT:
        raise ValueError(f"must have at least {MIN_DIFFERENT} different characters")
    return token


Token = Annotated[SecretStr, AfterValidator(_hard_to_guess)]
Scope = Literal["view", "command"]
ALL_SCOPES: frozenset[Scope] = frozenset({"view", "command"})


class AccessToken(Settings):
    """A further access token."""

    token: Token
    """The token."""
    scopes: Annotated[list[Scope], Field(min_length=1)] = Field(["view"])
    """Permissions: `view` reads everything, `command` commands the rules. Default: view."""


class Web(Settings):
    """The web page: live pictures, results, events, metrics."""

    bind: Annotated[Bind, BeforeValidator(parse_bind, json_schema_input_type=str)] = Field(
        default_factory=lambda: Bind("127.0.0.1", 8080)
    )
    """Address and port, by default 127.0.0.1:8080. Port 0: any free port, shown in the log."""
    token: Token | None = None
    """Access token with all permissions. A token is required if other computers can reach the address, also through a
    proxy."""
    tokens: dict[Name, AccessToken] = Field({})
    """Further access tokens by name, with their permissions. Events name the token that sent a command."""
    base_path: Annotated[str, BeforeValidator(_parse_base_path)] | None = None
    """Path below which a reverse proxy serves the page, such as /cams. Default: none."""
    trusted_proxies: list[Annotated[Network, BeforeValidator(_parse_network, json_schema_input_type=str)]] = Field([])
    """Addresses of reverse proxies whose `X-Forwarded-For`, `-Proto` and `-Host` headers are true. Default: none."""

    @property
    def all_tokens(self) -> dict[str, AccessToken]:
        """All access tokens by name; that of `token` is called `token`."""
        main = {} if self.token is None else {"token": AccessToken(token=self.token, scopes=sorted(ALL_SCOPES))}
        return {**self.tokens, **main}

    @model_validator(mode="after")
    def _closed(self) -> Self:
        texts = [one.token.get_secret_value() for one in self.all_tokens.values()]
        if len(set(texts)) < len(texts):
            raise ValueError("two access tokens are the same: each `tokens` entry needs one of its own")
        if "token" in self.tokens:
            raise ValueError("`tokens` cannot have the name `token`: that is the name of the key `token`")
        if not texts and not self.bind.is_loopback:
            raise ValueError(
                f"others can reach {self.bind}, so a `token` is needed, for example token: ${{STREAMER_TOKEN}}"
            )
        if not texts and self.trusted_proxies:
            raise ValueError("others can reach the page through a proxy, so `trusted_proxies` needs a `token`")
        return self
