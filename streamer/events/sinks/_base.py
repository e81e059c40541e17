"""The interface between emit and a kind of sink."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import Field

from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Name, Seconds, Settings
from streamer.core.tls import ClientTls
from streamer.types import ResultKind, Sink

EventKind = Literal["results", "statuses", "incidents"]
PREFIXES: dict[EventKind, bytes] = {
    "results": b'{"specversion":"1.0","type":"streamer.result.',
    "statuses": b'{"specversion":"1.0","type":"streamer.status.',
    "incidents": b'{"specversion":"1.0","type":"streamer.incident.',
}
"""First bytes of the events of each kind, as the program encodes them."""


NO_WORD = "None"
"""Stands for the word of a `state` without an answer; Home Assistant knows it as the state `unknown`."""
RuleSubject = Literal["objects", "absence", "text", "down", "up"]
"""Subject of a rule: objects that are there or not, a text, a stream that is down or up."""


class RuleInfo(NamedTuple):
    """A rule, as configured when the agent started."""

    streams: Collection[str]
    """Streams on which it runs."""
    subject: RuleSubject | None = None
    """Subject of all parts of its condition; None if they have several."""
    words: Sequence[str] = ()
    """Words of its `state`, if the whole condition is one."""


class RulesState(NamedTuple):
    """State of the rules at a place of the ledger."""

    mode: str | None = None
    """The mode that was switched to last; None if there was no switch."""
    open_incidents: Mapping[tuple[str, str], bytes] = {}
    """Newest event of each open incident by stream and rule; rebuilt if the ledger has deleted it."""
    words: Mapping[tuple[str, str], str] = {}
    """Words of the `state` of rules by stream and rule; one without an answer is absent."""


class TaskKinds(NamedTuple):
    """Kind of result of each task."""

    by_task: Mapping[str, ResultKind] = {}
    """Keys: the pipeline's name of the task, such as `object_detection`."""
    streams: Mapping[str, Mapping[str, ResultKind]] = {}
    """Keys: stream and name of the task, as configured when the agent started."""


@dataclass(frozen=True, slots=True)
class SinkContext:
    """The agent that a sink belongs to."""

    agent: str
    runtime: Path
    """Folder of the agent's sockets."""
    ledger: Path
    """File of the ledger, to be opened read-only."""
    stop_agent: Callable[[], None] = lambda: None
    """Ask the agent to end: the sink needs no more events."""
    max_results: int | None = None
    """Results on standard output after which the agent ends."""
    tasks: TaskKinds = field(default_factory=TaskKinds)
    command_rules: Callable[[Mapping[str, Any]], str] | None = None
    """Send a command to the rules, as `command_rules_by_data` does. It blocks for seconds and raises StreamerError."""
    rules: Mapping[str, RuleInfo] = field(default_factory=dict)
    modes: Sequence[str] = ()
    """Modes of the rules, the first one is the mode at the first start."""
    rules_state: Callable[[int], RulesState] = lambda _: RulesState()
    """Return the state of the rules after the event at a ledger position."""


class SinkProgress(Protocol):
    """A sink's own part of the ledger, which it may use inside `write`; `SinkCursor` is one."""

    @property
    def position(self) -> int:
        """Position of the newest event that is delivered with all before it."""

    def find(self, event_id: str) -> int | None:
        """Return the ledger position of an event, or None when the ledger does not hold it."""

    def advance(self, position: int) -> None:
        """Store that everything up to `position` is delivered: it is not given again after a failure."""

    def dead_letter(self, position: int, reason: str) -> None:
        """Keep the event at `position` for the user: its receiver will never accept it."""

    @property
    def in_doubt(self) -> int | None:
        """Position of the event whose delivery had begun when the process before ended; nobody knows if it arrived."""

    def begin(self, position: int) -> None:
        """Store on the disk that the delivery of an event begins: until `settle`, it is in doubt."""

    def settle(self, positions: Iterable[int] = ()) -> None:
        """Store that no event is in doubt. `positions`: delivered ones, which are no dead letters any more."""


class Receiver(Protocol):
    """One receiver of the ledger's events, as emit runs it; `SinkSettings` is one."""

    @property
    def name(self) -> str:
        """Name in status events and of the position in the ledger."""

    def selects(self, body: bytes) -> bool:
        """Return whether the receiver gets this event."""

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        """Return the sink. Raises ConfigError when the user must change something."""


class SinkSettings(Settings):
    """A kind of sink, as configured; its own factory."""

    name: Name
    """Name of the sink in status events. It also identifies its position in the ledger and must not change."""

    def selects(self, body: bytes) -> bool:
        """Return whether the sink gets this event."""
        return True

    def check(self) -> None:
        """Raise ConfigError when the sink certainly cannot work. Must not change anything."""

    @abstractmethod
    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        """Return the sink. Raises ConfigError when the user must change something."""


class SelectiveSinkSettings(SinkSettings):
    """A sink that can be limited to some kinds of events."""

    only: Annotated[list[EventKind], Field(min_length=1)] | None = None
    """Kinds of events that the sink gets: results, statuses, incidents. Default: all."""

    @property
    def kinds(self) -> Collection[EventKind]:
        """The kinds of events that the sink gets."""
        return tuple(PREFIXES) if self.only is None else self.only

    def selects(self, body: bytes) -> bool:
        return self.only is None or body.startswith(tuple(PREFIXES[kind] for kind in self.only))


class ServerSinkSettings(SelectiveSinkSettings, ClientTls):
    """A sink whose receiver is a server on the network: the keys that all of them have."""

    url: Url
    """Address of the server."""
    timeout: Seconds
    """Maximum duration of one request, or of the wait for one acknowledgement."""

    def reject_unused_tls(self, scheme: str) -> None:
        """Raise ValueError for TLS keys beside a URL without TLS. `scheme`: the one with TLS."""
        for key in ("ca", "cert"):
            if self.url.scheme != scheme and getattr(self, key) is not None:
                raise ValueError(f"{key}: only allowed with {scheme}://")


_MEDIA_TYPE = r"^[\w.+-]+/[\w.+-]+(; ?[\w.+-]+=[\w.+-]+)*$"


class NetworkSinkSettings(ServerSinkSettings):
    """A sink that can reach its server through a proxy, and names the media type of the events."""

    content_type: Annotated[str, Field(pattern=_MEDIA_TYPE, examples=["application/json"])] = (
        "application/cloudevents+json"
    )
    """Media type of the events, for receivers that read for example `application/json` only. The body is the same."""
    proxy: Annotated[Url, require_scheme("http")] | None = None
    """HTTP proxy, `http://` with user and password if needed. Default: none; `http_proxy` and the like are not used."""


@runtime_checkable
class IdleSink(Sink, Protocol):
    """A sink that also has something to do while there are no events."""

    idle_s: float
    """Maximum seconds between two calls of `idle`."""

    def idle(self) -> None:
        """Called at least every `idle_s` seconds while there are no events. Raises SinkError, as `write` does."""


@runtime_checkable
class ReportingSink(Sink, Protocol):
    """A sink that reports a change of its own."""

    def report(self) -> tuple[str, str] | None:
        """Return state and reason of a status event about the sink since the last call, or None."""
