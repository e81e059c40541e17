"""What a kind of sink is given, and what it gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streamer.core.settings import Name, Settings
from streamer.types import ResultKind, Sink


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink may need of the process it runs in."""

    agent: str
    runtime: Path
    """Directory of the agent's sockets."""
    find: Callable[[str], int | None]
    """Ledger position of an event id, None when the ledger does not hold it."""
    finished: Callable[[], None]
    """Ask the agent to end: this sink has all it wants."""
    done: Callable[[int], None] = lambda _: None
    """Inside `write`: everything up to this position is safe, and is not given again after a failure."""
    dead_letter: Callable[[int, str], None] = lambda _, __: None
    """Inside `write`: the event at this position will never be taken, and why. It is kept for the user to see."""
    ledger: Path | None = None
    """The ledger's file, to be read only."""
    max_events: int | None = None
    """End after this many results on standard output."""
    streams: Mapping[str, Mapping[str, ResultKind]] = field(default_factory=dict)
    """What each task gives, by stream and the task's name, as the agent started."""
    kinds: Mapping[str, ResultKind] = field(default_factory=dict)
    """What the answers to each kind of question are."""


class SinkSettings(Settings):
    """A kind of sink, as configured; its own factory."""

    name: Name
    """Name of the sink in status events. It also keeps the sink's place in the ledger, so it must not change."""

    def check(self) -> None:
        """Raise ConfigError when it is already clear that the sink cannot work. Leaves no trace."""

    @abstractmethod
    def open(self, context: SinkContext) -> Sink:
        """Raises ConfigError when the user must change something."""
