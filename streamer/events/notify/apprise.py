"""Settings of targets that Apprise reaches: ntfy, Telegram, e-mail and more than 100 other services."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import model_validator

from streamer.core.errors import ConfigError
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Seconds
from streamer.core.tls import ClientTls
from streamer.events.notify._base import Messenger, TargetSettings
from streamer.events.notify._secret_url import SecretUrl

INSTALL = "pip install 'florence-streamer[notify]'"
_MAIL = frozenset({"mailto", "mailtos"})
_REPLACING = frozenset({"ntfy", "ntfys"})
"""Schemes of services at which a message replaces an earlier one with the same id."""


class Apprise(TargetSettings, ClientTls):
    """A service with an Apprise URL."""

    checked_key = ("url",)
    kind: Literal["apprise"]
    url: SecretUrl
    """Apprise URL, such as `ntfys://ntfy.example/topic` or `mailtos://user:password@mail.example`; always hidden."""
    timeout: Seconds = 20.0
    """Maximum duration of the delivery of one notification. Default: 20s."""
    proxy: Annotated[Url, require_scheme("http")] | None = None
    """HTTP proxy, `http://` with user and password if needed. Default: none; `http_proxy` and the like are not used."""

    @model_validator(mode="after")
    def _keys_are_used(self) -> Self:
        for key in ("ca", "cert", "proxy"):
            if self.url.scheme in _MAIL and getattr(self, key) is not None:
                raise ValueError(f"{key}: only for services by HTTP, not for {self.url.scheme}://")
        return self

    @property
    def replaces(self) -> bool:
        return self.url.scheme in _REPLACING

    def missing_package(self) -> str | None:
        if find_spec("apprise") is None:
            return f"`kind: apprise` needs the package apprise: run `{INSTALL}`"
        return None

    def check(self) -> None:
        if self.files:
            self.tls_context()
        self.open(Path()).close()

    def without_secrets(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in raw.items() if key != "proxy"} | {"url": str(self.url)}

    def open(self, state: Path) -> Messenger:
        if problem := self.missing_package():
            raise ConfigError(problem)
        from streamer.events.notify._apprise_messenger import AppriseMessenger

        return AppriseMessenger(self.url, self.timeout, self, self.proxy)
