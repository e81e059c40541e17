"""The interface between the delivery of notifications and a kind of target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from streamer.core.settings import Seconds, Settings
from streamer.events.incident_data import Severity


@dataclass(frozen=True, slots=True)
class Message:
    """One notification, for people."""

    id: str
    """The same when the message is sent again."""
    topic: str
    """The same in all messages about one incident: its id."""
    state: Literal["start", "update", "end", "late", "test"]
    """`late`: a summary of several incidents."""
    title: str
    body: str
    severity: Severity
    silent: bool = False
    """Make no sound: the target has a notification of this topic already, or what happened is over."""
    rule: str | None = None
    stream: str | None = None
    picture: bytes | None = None
    """JPEG."""


class Messenger(Protocol):
    """An open connection to one target. Used by one thread."""

    def send(self, message: Message) -> None:
        """Return once the target's service has the message.

        Raises SinkError to be called again with it, SinkRefused if the service will never accept it.
        """

    def close(self) -> None: ...


class TargetSettings(Settings):
    """A kind of target, as configured; its own factory."""

    end: bool = False
    """Also report the end of an incident. Default: false."""
    picture: bool = True
    """Attach the best frame of the incident, with the box of its object, if the service takes pictures."""
    max_age: Seconds = 600.0
    """Age from which notifications that could not be delivered are sent as one summary. Default: 10m."""

    checked_key: ClassVar[tuple[str, ...]] = ()
    """The key that `check` is about."""

    @property
    def replaces(self) -> bool:
        """Return whether a later message of a topic replaces the earlier one at the receiver."""
        return False

    def missing_package(self) -> str | None:
        """Return which package must be installed for this kind, or None. Imports nothing."""
        return None

    def check(self) -> None:
        """Raise ConfigError when the target certainly cannot work. Sends nothing."""

    def without_secrets(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plain data of these settings for a process that only needs to know their effect on rules."""
        return dict(raw)

    @abstractmethod
    def open(self, state: Path) -> Messenger:
        """Return the connection. `state`: the state folder of the agent.

        Raises ConfigError when the user must change something.
        """
