"""Settings of notifications in browsers that have subscribed on the page (web push)."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from streamer.core.errors import ConfigError
from streamer.core.settings import Seconds
from streamer.core.tls import ClientTls
from streamer.events.notify._base import Messenger, TargetSettings

INSTALL = "pip install 'florence-streamer[notify]'"
_PACKAGES = {"http_ece": "http-ece", "py_vapid": "py-vapid"}


_CONTACT = re.compile(r"mailto:[^@\s]+@[\w.-]+\.\w+")


def _checked_contact(text: str) -> str:
    if _CONTACT.fullmatch(text) is None:
        raise ValueError("must be `mailto:` and an e-mail address")
    return text


class WebPush(TargetSettings, ClientTls):
    """The browsers in which somebody has turned notifications on, on the page."""

    kind: Literal["web_push"]
    contact: Annotated[str, AfterValidator(_checked_contact)] = "mailto:streamer@example.com"
    """Address that the push services may write to about misuse: `mailto:` and your e-mail address."""
    hosts: Annotated[list[Annotated[str, StringConstraints(to_lower=True)]], Field(max_length=20)] = Field([])
    """Push services of your own network, by name or address. Others must have public addresses."""
    ttl: Seconds = 3600.0
    """Time for which the push service keeps a notification for a device that is offline. Default: 1h."""
    timeout: Seconds = 10.0
    """Maximum duration of the delivery to one browser. Default: 10s."""

    @property
    def replaces(self) -> bool:
        return True

    def missing_package(self) -> str | None:
        missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
        return f"`kind: web_push` needs {' and '.join(missing)}: run `{INSTALL}`" if missing else None

    def check(self) -> None:
        if problem := self.missing_package():
            raise ConfigError(problem)
        self.tls_context()

    def open(self, state: Path) -> Messenger:
        self.check()
        from streamer.events.notify._push_messenger import PushMessenger

        return PushMessenger(self, state)
