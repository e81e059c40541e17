"""The book of accepted events: one SQLite file, from which every sink reads at its own pace.

What `Ledger.commit` returned for survives kill -9 and power loss (WAL, synchronous=FULL). One process writes; each sink
has a connection of its own for its place in the book. A place is stored without a sync of its own: after a power loss
it may be a little behind, and the sink gets those events a second time.
"""

from streamer.events.ledger.cursor import SinkCursor
from streamer.events.ledger.replay import Replay
from streamer.events.ledger.retention import Retention
from streamer.events.ledger.schema import BROKEN
from streamer.events.ledger.writer import Ledger

__all__ = ["BROKEN", "Ledger", "Replay", "Retention", "SinkCursor"]
